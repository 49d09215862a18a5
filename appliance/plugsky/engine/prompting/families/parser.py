"""One answer as events while it streams: what the gateway feeds with an engine's text.

Guarantees: (1) what has been given out is never taken back; (2) the events, joined, depend on the text alone, never on
how it was cut; (3) text that is no call of an offered tool comes out as content, as it was; (4) at the end it is
said whether all calls can be used, before anybody claims that tools were called.
"""

import secrets
from collections.abc import Callable, Collection

from plugsky.engine.prompting.families.events import Event, Outcome, Output
from plugsky.engine.prompting.families.family import Family
from plugsky.engine.prompting.families.reader import Reader


def random_call_id() -> str:
    """An id for a call: ``call_`` and 24 random characters."""
    return f"call_{secrets.token_hex(12)}"


class AnswerParser:
    """The parser of one answer of ``family``.

    ``tools`` are the names on offer, none when no tool may be called. ``thinking`` says that the prompt ends inside a
    reasoning block, as ``prepared`` tells.
    """

    def __init__(
        self,
        family: Family,
        *,
        tools: Collection[str] = (),
        thinking: bool = False,
        new_id: Callable[[], str] = random_call_id,
    ) -> None:
        self._output = Output(frozenset(tools), new_id)
        self._reader = Reader()
        self._steps = family.syntax(self._reader, self._output, thinking)
        self._over = False

    def feed(self, text: str) -> tuple[Event, ...]:
        """The events that ``text`` settles, perhaps none."""
        self._reader.feed(text)
        self._go_on()
        return self._output.take()

    def end(self) -> Outcome:
        """The answer is over: its last events and what was called."""
        self._reader.end()
        self._go_on()
        return self._output.close()

    def _go_on(self) -> None:
        if not self._over:
            self._over = next(self._steps, "over") == "over"
