"""IBM's Granite.

Up to 3.3: ``<|tool_call|>``, a control token, and a list of calls; reasoning between ``<think>`` tags and content
between ``<response>`` tags, all plain text. From 4 on calls in Hermes' style. The templates of 3 render no calls of the
past, so these are spelt out.
"""

from typing import Final

from plugsky.engine.prompting.families.constraint import json_shape
from plugsky.engine.prompting.families.family import Arranged, Asked, Family
from plugsky.engine.prompting.families.hermes import CLOSE, OPEN
from plugsky.engine.prompting.families.history import call_text
from plugsky.engine.prompting.families.tagged import THINK, after, tagged

LIST: Final = "<|tool_call|>"
_RESPONSE: Final = ("<response>", "</response>")


def _spelt_out(asked: Asked, _template: str) -> Arranged:
    messages = []
    for message in asked.messages:
        changed = dict(message)
        if "tool_calls" in message:
            listed = ", ".join(map(call_text, message["tool_calls"]))
            changed["content"] = f"{message['content'] or ''}{LIST}[{listed}]"
        if message["role"] == "tool":
            changed["role"] = "tool_response"
        messages.append(changed)
    return Arranged(messages, {"tools": asked.tools} if asked.tools else {})


GRANITE4: Final = Family(
    name="granite4",
    signs=(("<|start_of_role|>", "<tool_call>"),),
    syntax=tagged(THINK, {OPEN: after(CLOSE), LIST: after()}),
    shape=json_shape("name", "arguments", f"{OPEN}\n", "", f"\n{CLOSE}"),
    triggers=(OPEN,),
    reasoning=THINK,
    visible_tokens=(OPEN, CLOSE, LIST, "<think>", "</think>"),
)

GRANITE3: Final = Family(
    name="granite3",
    signs=(("<|start_of_role|>", LIST),),
    syntax=tagged(THINK, {LIST: after(), OPEN: after(CLOSE)}, dropped=_RESPONSE),
    shape=json_shape("name", "arguments", f"{LIST}[", ", ", "]"),
    triggers=(LIST,),
    reasoning=THINK,
    visible_tokens=(LIST, OPEN, CLOSE),
    arrange=_spelt_out,
)
