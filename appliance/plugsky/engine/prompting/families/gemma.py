"""Gemma 4 and FunctionGemma, which write calls in a notation of their own.

``<|tool_call>call:name{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>``: keys bare, texts between quote marks that are
a token, the rest as in JSON. It is turned into JSON while it streams. FunctionGemma spells the three marks
``<start_function_call>``, ``<end_function_call>`` and ``<escape>``. Reasoning stands between ``<|channel>thought`` and
``<channel|>``. Gemma 2 and 3 know no tools and are served as :mod:`~.generic`.
"""

import json
from typing import Final, NamedTuple

from plugsky.engine.grammars.json_schema.gbnf_text import literal
from plugsky.engine.prompting.families.calls import CUT, Found
from plugsky.engine.prompting.families.constraint import CallShape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Family
from plugsky.engine.prompting.families.json_scan import is_value
from plugsky.engine.prompting.families.reader import Reader, Steps
from plugsky.engine.prompting.families.tagged import Handler, Reasoning, tagged

THINK: Final = Reasoning(("<|channel>thought\n",), ("<channel|>",))
MAX_DEPTH: Final = 32
_MAX_WORD: Final = 256


class _Marks(NamedTuple):
    opens: str
    closes: str
    quote: str


class _Notation:
    """Reads one value of the notation and gives out JSON."""

    def __init__(self, reader: Reader, output: Output, quote: str) -> None:
        self._reader = reader
        self._output = output
        self._quote = quote

    def value(self, depth: int = 0) -> Steps[bool]:
        """One value. False where it is none."""
        reader = self._reader
        yield from reader.spaces()
        mark = yield from reader.starts((self._quote, "{", "["))
        if depth > MAX_DEPTH:
            return False
        if mark == self._quote:
            return (yield from self._text())
        if mark:
            return (yield from self._members(mark, depth))
        word = ((yield from reader.word((",", "}", "]"), _MAX_WORD)) or "").strip()
        if not word or not is_value(word):
            return False
        self._output.arguments(word)
        return True

    def _text(self) -> Steps[bool]:
        self._output.arguments('"')
        ended = yield from self._reader.until((self._quote,), lambda part: self._output.arguments(_escaped(part)))
        if ended:
            self._output.arguments('"')
        return bool(ended)

    def _members(self, opened: str, depth: int) -> Steps[bool]:
        reader, closes = self._reader, "}" if opened == "{" else "]"
        self._output.arguments(opened)
        yield from reader.spaces()
        mark = yield from reader.starts((closes,))
        while not mark:
            if opened == "{" and not (yield from self._key()):
                return False
            if not (yield from self.value(depth + 1)):
                return False
            yield from reader.spaces()
            mark = yield from reader.starts((",", closes))
            if not mark:
                return False
            if mark == ",":
                self._output.arguments(",")
                mark = ""
        self._output.arguments(closes)
        return True

    def _key(self) -> Steps[bool]:
        reader = self._reader
        yield from reader.spaces()
        quoted = yield from reader.starts((self._quote, '"'))
        key = yield from reader.word((quoted or ":",), _MAX_WORD)
        if key is None or (quoted and not (yield from reader.starts((quoted,)))):
            return False
        yield from reader.spaces()
        self._output.arguments(f'"{_escaped(key if quoted else key.strip())}":')
        return bool((yield from reader.starts((":",))))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _call(marks: _Marks) -> Handler:
    def handler(reader: Reader, output: Output, _marker: str) -> Steps[Found]:
        yield from reader.spaces()
        if not (yield from reader.starts(("call:",))):
            return "no call"
        name = ((yield from reader.word(("{",), _MAX_WORD)) or "").strip()
        if name not in output.names:
            return "no call"
        output.begin(name)
        if not (yield from _Notation(reader, output, marks.quote).value()):
            output.broken(CUT)
            return "broken"
        yield from reader.spaces()
        yield from reader.starts((marks.closes,))
        return "called"

    return handler


def _shape(marks: _Marks) -> CallShape:
    quote = literal(marks.quote)
    rules = (
        'args ::= "{" (member ("," member)*)? "}"',
        'member ::= [A-Za-z0-9_.-]{1,64} ":" value',
        f'value ::= {quote} [^<]* {quote} | args | "[" (value ("," value)*)? "]" | number | "true" | "false" | "null"',
        'number ::= "-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})?',
    )
    return CallShape(
        literal(f"{marks.opens}call:"), "", literal(marks.closes), separator='""', arguments="\n".join(rules)
    )


_GEMMA4: Final = _Marks("<|tool_call>", "<tool_call|>", '<|"|>')
_FUNCTION: Final = _Marks("<start_function_call>", "<end_function_call>", "<escape>")

GEMMA4: Final = Family(
    name="gemma4",
    signs=(("<|tool_call>call:",),),
    syntax=tagged(THINK, {_GEMMA4.opens: _call(_GEMMA4)}),
    shape=_shape(_GEMMA4),
    triggers=(_GEMMA4.opens,),
    reasoning=THINK,
    visible_tokens=(*_GEMMA4, "<|channel>", "<channel|>"),
)

FUNCTION_GEMMA: Final = Family(
    name="function-gemma",
    signs=(("<start_function_call>call:",),),
    syntax=tagged(None, {_FUNCTION.opens: _call(_FUNCTION)}),
    shape=_shape(_FUNCTION),
    triggers=(_FUNCTION.opens,),
    visible_tokens=_FUNCTION,
)
