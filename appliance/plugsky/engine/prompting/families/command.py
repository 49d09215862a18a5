"""Cohere's Command.

R7B and A write ``<|START_THINKING|>…<|END_THINKING|>``, then ``<|START_ACTION|>[{"tool_call_id": "0", "tool_name": …,
"parameters": {…}}]<|END_ACTION|>``, or content between ``<|START_RESPONSE|>`` and ``<|END_RESPONSE|>`` (newer ones
``<|START_TEXT|>``, ``<|END_TEXT|>``). All of these are control tokens. R and R+ write ``Action:`` and a fenced block of
JSON with the same keys.
"""

from typing import Final

from plugsky.engine.grammars.json_schema.gbnf_text import literal
from plugsky.engine.prompting.families.calls import Found, calls
from plugsky.engine.prompting.families.constraint import CallShape, json_shape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Family
from plugsky.engine.prompting.families.reader import Reader, Steps
from plugsky.engine.prompting.families.tagged import Reasoning, after, tagged

THINK: Final = Reasoning(("<|START_THINKING|>",), ("<|END_THINKING|>",))
ACTION: Final = "<|START_ACTION|>"
END_ACTION: Final = "<|END_ACTION|>"
_AROUND_CONTENT: Final = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
_FENCE: Final = "```"

COMMAND: Final = Family(
    name="command",
    signs=((ACTION,),),
    syntax=tagged(THINK, {ACTION: after(END_ACTION)}, dropped=_AROUND_CONTENT),
    shape=CallShape(
        '"{\\"tool_call_id\\": \\"" [0-9]{1,3} ' + literal('", "tool_name": "'),
        literal('", "parameters": '),
        literal("}"),
        literal(f"{ACTION}[\n    "),
        literal(",\n    "),
        literal(f"\n]{END_ACTION}"),
    ),
    triggers=(ACTION,),
    reasoning=THINK,
    around_answer=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    visible_tokens=(ACTION, END_ACTION, *THINK.opens, *THINK.closes, *_AROUND_CONTENT),
)


def _fenced(reader: Reader, output: Output, _marker: str) -> Steps[Found]:
    yield from reader.spaces()
    yield from reader.starts((f"{_FENCE}json", _FENCE))
    found = yield from calls(reader, output)
    if found == "called":
        yield from reader.spaces()
        yield from reader.starts((_FENCE,))
    return found


COMMAND_R: Final = Family(
    name="command-r",
    signs=(("<|START_OF_TURN_TOKEN|>", "Action:"),),
    syntax=tagged(None, {"Action:": _fenced}),
    shape=json_shape("tool_name", "parameters", f"Action:\n{_FENCE}json\n[", ",\n", f"]{_FENCE}"),
    triggers=("Action:",),
)
