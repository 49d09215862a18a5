"""Mistral, in both forms.

Up to Nemo: ``[TOOL_CALLS][{"name": …, "arguments": …, "id": …}]``. From tokenizer v11 on, for each call:
``[TOOL_CALLS]name[ARGS]{…}``, some with ``[CALL_ID]…`` before the arguments. Reasoning stands between ``[THINK]`` and
``[/THINK]``. All of these are control tokens. Templates take ids of nine letters and digits only: others are replaced
by nine that follow from them.
"""

import hashlib
import re
from typing import Final

from plugsky.engine.grammars.json_schema.gbnf_text import literal
from plugsky.engine.prompting.families.calls import Found, arguments, calls
from plugsky.engine.prompting.families.constraint import CallShape, json_shape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Arranged, Asked, Family, Turn, as_is
from plugsky.engine.prompting.families.reader import Reader, Steps
from plugsky.engine.prompting.families.tagged import Reasoning, tagged

CALLS: Final = "[TOOL_CALLS]"
ARGS: Final = "[ARGS]"
CALL_ID: Final = "[CALL_ID]"
THINK: Final = Reasoning(("[THINK]",), ("[/THINK]",))
_OWN_ID: Final = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_NAME: Final = 256


def call_id(text: str) -> str:
    """An id as these templates want it: ``text`` if it is one, else nine characters that follow from it."""
    if _OWN_ID.fullmatch(text):
        return text
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))


def _with_own_ids(asked: Asked, template: str) -> Arranged:
    return as_is(Asked([_with_own_id(message) for message in asked.messages], asked.tools), template)


def _with_own_id(message: Turn) -> Turn:
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = call_id(message["tool_call_id"])
    if "tool_calls" in message:
        changed["tool_calls"] = [{**call, "id": call_id(call["id"])} for call in message["tool_calls"]]
    return changed


def _either(reader: Reader, output: Output, _marker: str) -> Steps[Found]:
    yield from reader.spaces()
    if (yield from reader.ahead()) in ("[", "{"):
        return (yield from calls(reader, output))
    name = yield from reader.word((ARGS, CALL_ID, "{"), _MAX_NAME)
    if name is None or name.strip() not in output.names:
        return "no call"
    if (yield from reader.starts((CALL_ID,))):
        yield from reader.word((ARGS,), _MAX_NAME)
    yield from reader.starts((ARGS,))
    return (yield from arguments(reader, output, name.strip()))


MISTRAL: Final = Family(
    name="mistral",
    signs=((CALLS, ARGS),),
    syntax=tagged(THINK, {CALLS: _either}),
    shape=CallShape(literal(CALLS), literal(ARGS), ""),
    triggers=(CALLS,),
    reasoning=THINK,
    visible_tokens=(CALLS, ARGS, CALL_ID, "[THINK]", "[/THINK]"),
    arrange=_with_own_ids,
)

MISTRAL_LIST: Final = Family(
    name="mistral-list",
    signs=((CALLS,),),
    syntax=tagged(None, {CALLS: _either}),
    shape=json_shape("name", "arguments", f"{CALLS}[", ", ", "]"),
    triggers=(CALLS,),
    visible_tokens=(CALLS,),
    arrange=_with_own_ids,
)
