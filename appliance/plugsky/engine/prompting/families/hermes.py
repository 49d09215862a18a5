"""Hermes' style, which Qwen 2.5, Qwen 3, QwQ and many others write.

Reasoning between ``<think>`` and ``</think>``; each call a JSON object between ``<tool_call>`` and ``</tool_call>``,
several one after another. Qwen's vocabularies have these as plain or user-defined tokens; others as control tokens.
"""

from typing import Final

from plugsky.engine.prompting.families.constraint import json_shape
from plugsky.engine.prompting.families.family import Family
from plugsky.engine.prompting.families.tagged import THINK, after, tagged

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"

HERMES: Final = Family(
    name="hermes",
    signs=((OPEN, CLOSE, "arguments"),),
    counter_signs=("<function=", "<arg_key>", "<invoke", "<|START_ACTION|>"),
    syntax=tagged(THINK, {OPEN: after(CLOSE)}),
    shape=json_shape("name", "arguments", f"{OPEN}\n", "", f"\n{CLOSE}"),
    triggers=(OPEN,),
    reasoning=THINK,
    visible_tokens=(OPEN, CLOSE, "<think>", "</think>"),
)
