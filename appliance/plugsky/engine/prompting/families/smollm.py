"""SmolLM 2 and 3.

SmolLM 3 takes its tools as ``xml_tools`` and writes Hermes' style. SmolLM 2's template knows no tools; the model was
trained on a system text that lists them, and on answers that are a list of calls between ``<tool_call>`` tags: its
makers' model card. None of these marks are tokens of their own.
"""

from typing import Final

from plugsky.engine.prompting.families.constraint import json_shape
from plugsky.engine.prompting.families.family import Arranged, Asked, Family
from plugsky.engine.prompting.families.hermes import CLOSE, OPEN
from plugsky.engine.prompting.families.history import described, instructed, spelt_out
from plugsky.engine.prompting.families.tagged import THINK, after, tagged

_TEXT: Final = (
    "You can call the functions below to answer. Call one only if the question needs it and its arguments are known; "
    "otherwise say what is missing.\n\n<tools>\n{tools}\n</tools>\n\n"
    "To call functions, answer with nothing but a list of calls between these tags:\n"
    '<tool_call>[{{"name": "a function\'s name", "arguments": {{"its argument": "value"}}}}]</tool_call>'
)


def _xml_tools(asked: Asked, _template: str) -> Arranged:
    messages = spelt_out(asked.messages, OPEN, CLOSE)
    return Arranged(messages, {"xml_tools": [tool["function"] for tool in asked.tools]} if asked.tools else {})


def _spelt_out(asked: Asked, _template: str) -> Arranged:
    messages = spelt_out(asked.messages, OPEN, CLOSE)
    if asked.tools:
        messages = instructed(messages, _TEXT.format(tools=described(asked.tools)), system=True)
    return Arranged(messages, {})


SMOLLM3: Final = Family(
    name="smollm3",
    signs=(("named SmolLM", "xml_tools"),),
    syntax=tagged(THINK, {OPEN: after(CLOSE)}),
    shape=json_shape("name", "arguments", f"{OPEN}\n", "", f"\n{CLOSE}"),
    triggers=(OPEN,),
    reasoning=THINK,
    visible_tokens=(OPEN, CLOSE, "<think>", "</think>"),
    arrange=_xml_tools,
)

SMOLLM2: Final = Family(
    name="smollm2",
    signs=(("named SmolLM",),),
    syntax=tagged(THINK, {OPEN: after(CLOSE)}),
    shape=json_shape("name", "arguments", f"{OPEN}[", ", ", f"]{CLOSE}"),
    triggers=(OPEN,),
    reasoning=THINK,
    visible_tokens=(OPEN, CLOSE, "<think>", "</think>"),
    arrange=_spelt_out,
)
