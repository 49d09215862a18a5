"""DeepSeek R1 and V3.

The marks are words between ``<`` with a full-width bar and a full-width bar with ``>``. R1 writes, between
``tool▁calls▁begin`` and ``tool▁calls▁end``, for each call ``tool▁call▁begin``, the word ``function``, ``tool▁sep``, the
name, and the arguments as a fenced block of JSON; V3.1 the name in place of ``function`` and the arguments bare.
The marks are control tokens, the tags around reasoning are not. Distilled models write the first mark with plain
spaces or underscores now and then. Templates that know no tools get a text of ours.
"""

from typing import Final

from plugsky.engine.grammars.json_schema.gbnf_text import literal
from plugsky.engine.prompting.families.calls import Found, arguments
from plugsky.engine.prompting.families.constraint import CallShape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Arranged, Asked, Family, as_is
from plugsky.engine.prompting.families.history import described, instructed
from plugsky.engine.prompting.families.reader import Reader, Steps
from plugsky.engine.prompting.families.tagged import THINK, tagged


def _mark(words: str) -> str:
    return f"<\uff5c{words}\uff5c>"


BEGIN_ALL: Final = _mark("tool▁calls▁begin")
END_ALL: Final = _mark("tool▁calls▁end")
BEGIN: Final = _mark("tool▁call▁begin")
END: Final = _mark("tool▁call▁end")
SEPARATOR: Final = _mark("tool▁sep")
_BEGINNINGS: Final = (BEGIN_ALL, *map(_mark, ("tool_calls_begin", "tool calls begin", "tool\\_calls\\_begin")))
_FENCE: Final = "```"
_MAX_NAME: Final = 256


def _calls(reader: Reader, output: Output, marker: str) -> Steps[Found]:
    begun = marker == BEGIN
    while True:
        yield from reader.spaces()
        if not begun and not (yield from reader.starts((BEGIN,))):
            return "called" if (yield from reader.starts((END_ALL,))) else "no call"
        begun = False
        found = yield from _call(reader, output)
        if found != "called":
            return found
        reader.record()


def _call(reader: Reader, output: Output) -> Steps[Found]:
    name = yield from reader.word((SEPARATOR,), _MAX_NAME)
    yield from reader.starts((SEPARATOR,))
    yield from reader.spaces()
    if name is not None and (yield from reader.ahead()) not in ("{", "`"):
        name = yield from reader.word(("\n", "{", _FENCE), _MAX_NAME)
    yield from reader.spaces()
    fenced = yield from reader.starts((f"{_FENCE}json", _FENCE))
    found = yield from arguments(reader, output, (name or "").strip())
    if found == "called":
        yield from reader.spaces()
        if fenced:
            yield from reader.starts((_FENCE,))
            yield from reader.spaces()
        yield from reader.starts((END,))
    return found


def _offered(asked: Asked, template: str, example: str) -> Arranged:
    if "tools" in template or not asked.tools:
        return as_is(asked, template)
    text = (
        f"You can call these functions, each described by a JSON object:\n{described(asked.tools)}\n\n"
        f"To call a function, answer like this:\n{BEGIN_ALL}{BEGIN}{example}{END}{END_ALL}"
    )
    return Arranged(instructed(asked.messages, text, system=True), {})


def _bare(asked: Asked, template: str) -> Arranged:
    return _offered(asked, template, f'a_function_name{SEPARATOR}{{"its argument": "value"}}')


def _fenced(asked: Asked, template: str) -> Arranged:
    """These templates write the content of a message with calls as a second message unless it is none."""
    messages = [
        {**message, "content": message["content"] or None} if "tool_calls" in message else message
        for message in asked.messages
    ]
    example = f'function{SEPARATOR}a_function_name\n{_FENCE}json\n{{"its argument": "value"}}\n{_FENCE}'
    return _offered(Asked(messages, asked.tools), template, example)


DEEPSEEK_V31: Final = Family(
    name="deepseek-v3.1",
    signs=((BEGIN, f"'{SEPARATOR}' + tool['function']['arguments']"),),
    syntax=tagged(THINK, {BEGIN_ALL: _calls, BEGIN: _calls}),
    shape=CallShape(literal(BEGIN), literal(SEPARATOR), literal(END), literal(BEGIN_ALL), '""', literal(END_ALL)),
    triggers=(BEGIN_ALL,),
    reasoning=THINK,
    visible_tokens=(BEGIN_ALL, END_ALL, BEGIN, END, SEPARATOR, "<think>", "</think>"),
    arrange=_bare,
)

DEEPSEEK_R1: Final = Family(
    name="deepseek-r1",
    signs=((BEGIN, SEPARATOR),),
    syntax=tagged(THINK, {**dict.fromkeys(_BEGINNINGS, _calls), BEGIN: _calls}),
    shape=CallShape(
        literal(f"{BEGIN}function{SEPARATOR}"),
        literal(f"\n{_FENCE}json\n"),
        literal(f"\n{_FENCE}{END}"),
        literal(BEGIN_ALL),
        literal("\n"),
        literal(END_ALL),
    ),
    triggers=(BEGIN_ALL,),
    reasoning=THINK,
    visible_tokens=(BEGIN_ALL, END_ALL, BEGIN, END, SEPARATOR, "<think>", "</think>"),
    arrange=_fenced,
)
