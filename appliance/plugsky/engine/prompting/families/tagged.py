"""The common shape of an answer: perhaps reasoning between two tags, then content with calls behind markers.

Reasoning counts as such only where the answer begins: a tag in the middle of what the model says is text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from plugsky.engine.prompting.families.calls import Found, calls
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.reader import Reader, Steps

Syntax = Callable[[Reader, Output, bool], Steps[None]]
"""How a family's answers are read; the last argument says that the prompt ended inside reasoning."""
Handler = Callable[[Reader, Output, str], Steps[Found]]
"""Reads the calls behind a marker, which it is told. The reader's record must hold what is read after the last call:
if that is no call, it is content."""


class Reasoning(NamedTuple):
    """The texts around reasoning. Of several pairs an answer may use any; the first is the template's own."""

    opens: tuple[str, ...]
    closes: tuple[str, ...]


THINK = Reasoning(("<think>",), ("</think>",))


def after(*closers: str) -> Handler:
    """Calls as JSON with one of ``closers`` behind them, or none."""

    def handler(reader: Reader, output: Output, _marker: str) -> Steps[Found]:
        found = yield from calls(reader, output)
        if found == "called":
            yield from reader.spaces()
            yield from reader.starts(closers)
        return found

    return handler


def tagged(
    reasoning: Reasoning | None,
    handlers: Mapping[str, Handler],
    *,
    dropped: Sequence[str] = (),
    bare: Handler | None = None,
) -> Syntax:
    """A syntax of this shape. ``dropped`` are marks around content; ``bare`` reads a call that has no marker before it
    and begins the answer."""

    def syntax(reader: Reader, output: Output, thinking: bool) -> Steps[None]:
        if reasoning is not None:
            space = yield from reader.spaces()
            if not thinking and (yield from reader.starts(reasoning.opens)):
                thinking = True
            elif not thinking:
                output.content(space)
            if thinking:
                yield from reader.until(reasoning.closes, output.reasoning)
                output.end_reasoning()
        offered = handlers if output.names else {}
        if bare is not None and output.names:
            yield from _handled(bare, reader, output, "")
        while marker := (yield from reader.until((*offered, *dropped), output.content)):
            if marker in offered:
                yield from _handled(offered[marker], reader, output, marker)

    return syntax


def _handled(handler: Handler, reader: Reader, output: Output, marker: str) -> Steps[None]:
    reader.record(marker)
    found = yield from handler(reader, output, marker)
    rest = reader.recorded()
    if found == "no call":
        output.content(rest)
