"""Any model whose template knows no tools: a text of ours describes them, and calls are JSON.

The call is the whole answer, an object with ``name`` and ``arguments`` or a list of such, perhaps in a fenced block or
between ``<tool_call>`` tags, as models not trained for it write of themselves. Anything else is content.
"""

from typing import Final

from plugsky.engine.prompting.families.calls import Found, calls
from plugsky.engine.prompting.families.constraint import json_shape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Arranged, Asked, Family
from plugsky.engine.prompting.families.hermes import CLOSE, OPEN
from plugsky.engine.prompting.families.history import described, instructed, spelt_out
from plugsky.engine.prompting.families.reader import Reader, Steps
from plugsky.engine.prompting.families.tagged import THINK, after, tagged

_FENCE: Final = "```"
_TEXT: Final = (
    "You can call these functions, each described by a JSON object:\n{tools}\n\n"
    "To call functions, answer with nothing but a JSON list of calls, like this:\n"
    '[{{"name": "a function\'s name", "arguments": {{"its argument": "value"}}}}]\n'
    "If no function is needed, answer in words."
)
_NO_SYSTEM: Final = "System role not supported"


def _bare(reader: Reader, output: Output, _marker: str) -> Steps[Found]:
    yield from reader.spaces()
    fenced = yield from reader.starts((f"{_FENCE}json", _FENCE))
    found = yield from calls(reader, output)
    if found == "called" and fenced:
        yield from reader.spaces()
        yield from reader.starts((_FENCE,))
    return found


def _described(asked: Asked, template: str) -> Arranged:
    messages = spelt_out(asked.messages, "", "")
    system = _NO_SYSTEM not in template
    if asked.tools:
        messages = instructed(messages, _TEXT.format(tools=described(asked.tools)), system=system)
    if not system and messages[0]["role"] == "system" and len(messages) > 1:  # as Gemma's makers advise
        messages = instructed(messages[1:], messages[0]["content"], system=False)
    return Arranged(messages, {})


GENERIC: Final = Family(
    name="generic",
    signs=((),),
    syntax=tagged(THINK, {OPEN: after(CLOSE)}, bare=_bare),
    shape=json_shape("name", "arguments", "[", ", ", "]"),
    triggers=('[{"name": "',),
    reasoning=THINK,
    visible_tokens=(OPEN, CLOSE, "<think>", "</think>"),
    arrange=_described,
)
