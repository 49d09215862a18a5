"""A model's chat template, rendered. Run as a module it is the child process that does so, apart from the engine.

A template comes out of a model file and is a program: Jinja's immutable sandbox bounds what it may touch, the child
process what it may use (address space, CPU time per render, size of the text). :mod:`plugsky.engine.prompting.renderer`
holds the other end of the pipe and kills a child that overstays. What a template may use follows Hugging Face's
``apply_chat_template``: ``messages``, ``add_generation_prompt``, ``bos_token``, ``eos_token``, what else a request
brings (``tools``, ``enable_thinking`` and the like), ``raise_exception``, ``strftime_now``, ``tojson``, loop controls,
``generation`` blocks; lines are trimmed as there.

The messages (:mod:`plugsky.engine.child`) are MessagePack: first one :class:`Setup`, then any number of
:class:`Render`. Each is answered by one :class:`Rendered`, the setup by an empty one.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from plugsky.engine import child

MAX_TEXT: Final = 12 << 20
"""Characters of rendered text."""
MAX_MEMORY: Final = 512 << 20
"""Bytes of address space of the child."""


class Setup(msgspec.Struct, frozen=True):
    """What a child renders with, for its whole life. ``cpu_s`` bounds the CPU seconds of one render."""

    template: str
    bos: str
    eos: str
    cpu_s: float


class Render(msgspec.Struct, frozen=True):
    """One conversation to render, up to where the answer begins."""

    messages: tuple[dict[str, Any], ...]
    variables: dict[str, Any] = {}


class Rendered(msgspec.Struct, frozen=True):
    """The prompt's text, or why the template gave none."""

    text: str = ""
    problem: str = ""


class TemplateRefusedError(Exception):
    """The template raised: the text is its own message, for example that roles must alternate."""


class GenerationBlocks(Extension):
    """``{% generation %}`` … ``{% endgeneration %}`` around what an assistant wrote: marks for training, no effect."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's own content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str) -> jinja2.Template:
    """The template in its sandbox. Raises :class:`jinja2.TemplateError` when it is no template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", GenerationBlocks],
        autoescape=False,
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment.from_string(source)


def render(template: jinja2.Template, setup: Setup, request: Render) -> str:
    """The prompt for ``request``. Raises :class:`TemplateRefusedError`."""
    pieces: list[str] = []
    room = MAX_TEXT
    try:
        for piece in template.generate(
            {
                **request.variables,
                "messages": list(request.messages),
                "add_generation_prompt": True,
                "bos_token": setup.bos,
                "eos_token": setup.eos,
            }
        ):
            room -= len(piece)
            if room < 0:
                raise TemplateRefusedError(f"the prompt would be longer than {MAX_TEXT} characters")
            pieces.append(piece)
    except jinja2.TemplateError as error:
        raise TemplateRefusedError(str(error)) from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise TemplateRefusedError(f"it ended with a {type(error).__name__}") from error
    return "".join(pieces)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now(UTC).strftime(layout)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, Iterator):  # what a filter such as ``map`` gives
        value = list(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bound_cpu(seconds: float) -> None:
    """Have the kernel end this process after ``seconds`` more of CPU time, should nobody be left to kill it."""
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), resource.RLIM_INFINITY))


def _answer(setup: Setup, template: jinja2.Template | str, request: Render) -> Rendered:
    if isinstance(template, str):
        return Rendered(problem=template)
    try:
        return Rendered(text=render(template, setup, request))
    except TemplateRefusedError as error:
        return Rendered(problem=str(error) or "it gave no reason")


def main() -> int:
    """Serve the pipe until it is closed. 0 at its end."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    first = child.next_question(sys.stdin.buffer)
    if first is None:
        return 0
    setup = msgspec.msgpack.decode(first, type=Setup)
    _bound_cpu(setup.cpu_s)
    template: jinja2.Template | str
    try:
        template = compile_template(setup.template)
    except jinja2.TemplateError as error:
        template = f"it cannot be compiled: {error}"
    child.reply(msgspec.msgpack.encode(Rendered()))
    while (body := child.next_question(sys.stdin.buffer)) is not None:
        _bound_cpu(setup.cpu_s)
        child.reply(msgspec.msgpack.encode(_answer(setup, template, msgspec.msgpack.decode(body, type=Render))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
