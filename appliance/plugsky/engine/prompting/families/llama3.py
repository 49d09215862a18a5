"""Llama 3.1 to 3.3: a call is the whole answer, a JSON object with ``name`` and ``parameters``.

``<|python_tag|>``, a control token, may stand before it; ``;`` between several. These templates render one call per
message. Llama 3.0 knows no tools and is served as :mod:`~.generic`.
"""

from typing import Final

from plugsky.engine.prompting.families.calls import Found, call
from plugsky.engine.prompting.families.constraint import json_shape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Family
from plugsky.engine.prompting.families.history import one_call_per_turn
from plugsky.engine.prompting.families.reader import Reader, Steps
from plugsky.engine.prompting.families.tagged import tagged

TAG: Final = "<|python_tag|>"


def _calls(reader: Reader, output: Output, _marker: str) -> Steps[Found]:
    while True:
        yield from reader.spaces()
        yield from reader.starts((TAG,))
        found = yield from call(reader, output)
        if found != "called":
            return found
        reader.record()
        yield from reader.spaces()
        if not (yield from reader.starts((";",))) and (yield from reader.ahead()) not in ("{", "<"):
            return found


LLAMA3: Final = Family(
    name="llama3",
    signs=(("<|start_header_id|>", "ipython", '"parameters": '),),
    syntax=tagged(None, {TAG: _calls}, bare=_calls),
    shape=json_shape("name", "parameters", "", "; ", ""),
    triggers=('{"name": "', TAG),
    visible_tokens=(TAG,),
    parallel=False,
    arrange=one_call_per_turn,
)
