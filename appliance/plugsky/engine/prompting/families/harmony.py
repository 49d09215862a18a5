"""gpt-oss, which writes OpenAI's harmony format: messages with a header each, several of them in one answer.

``<|channel|>analysis<|message|>`` begins reasoning, ``final`` or ``commentary`` in its place content, and a header
``to=functions.name``, before or behind the channel, a call whose arguments are the message. ``<|end|>`` ends a message;
``<|start|>assistant`` begins the next. ``<|call|>`` and ``<|return|>`` end the answer. The prompt ends with
``<|start|>assistant``, so that an answer begins inside a header. llama.cpp gives these marks as text but for the two.
"""

from typing import Final

from plugsky.engine.grammars.json_schema.gbnf_text import literal
from plugsky.engine.prompting.families.calls import CUT
from plugsky.engine.prompting.families.constraint import CallShape
from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.family import Arranged, Asked, Family, Turn
from plugsky.engine.prompting.families.history import one_call_per_turn
from plugsky.engine.prompting.families.reader import Reader, Steps, nowhere
from plugsky.engine.prompting.families.tagged import Reasoning

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
CONSTRAIN: Final = "<|constrain|>"
MESSAGE: Final = "<|message|>"
END: Final = "<|end|>"
ANALYSIS: Final = Reasoning((f"{CHANNEL}analysis{MESSAGE}",), (f"{END}{START}assistant",))
_ENDS: Final = (END, START, "<|call|>", "<|return|>")
_MAX_HEADER: Final = 512


def _syntax(reader: Reader, output: Output, thinking: bool) -> Steps[None]:
    if thinking:
        yield from reader.until(_ENDS, output.reasoning)
        output.end_reasoning()
    while (yield from reader.ahead()):
        yield from reader.spaces()
        yield from reader.starts((f"{START}assistant", START))
        header = yield from reader.word((MESSAGE, *_ENDS), _MAX_HEADER)
        if header is None or not (yield from reader.starts((MESSAGE,))):
            # Not a message: what there is of it, the answer's only text perhaps, is content.
            output.content(header or "")
            yield from reader.until(_ENDS, output.content)
            continue
        name = _recipient(header)
        if name in output.names and (yield from reader.ahead()) == "{":
            output.begin(name)
            if (yield from reader.json(output.arguments)) is None:
                output.broken(CUT)
                yield from reader.until(_ENDS, output.content)
            else:
                yield from reader.until(_ENDS, nowhere)
        elif header.partition(CHANNEL)[2].lstrip().startswith("analysis"):
            yield from reader.until(_ENDS, output.reasoning)
            output.end_reasoning()
        else:
            yield from reader.until(_ENDS, output.content)


def _recipient(header: str) -> str:
    """The function a header is addressed to; "" if none."""
    address = header.partition("to=")[2]
    for mark in ("<", " ", "\n"):
        address = address.partition(mark)[0]
    return address.removeprefix("functions.")


def _arranged(asked: Asked, template: str) -> Arranged:
    arranged = one_call_per_turn(asked, template)
    return Arranged([_with_thinking(message) for message in arranged.messages], arranged.variables)


def _with_thinking(message: Turn) -> Turn:
    """Reasoning as ``thinking``. Beside calls there is room for one text only, and it is shown as analysis."""
    thinking = message.get("reasoning_content", "")
    if not thinking:
        return message
    changed = {key: value for key, value in message.items() if key != "reasoning_content"}
    if "tool_calls" in message and message["content"]:
        return {**changed, "content": f"{thinking}\n{message['content']}"}
    return {**changed, "thinking": thinking}


HARMONY: Final = Family(
    name="harmony",
    signs=((CHANNEL, MESSAGE, START),),
    syntax=_syntax,
    shape=CallShape(literal(f"{CHANNEL}commentary to=functions."), literal(f" {CONSTRAIN}json{MESSAGE}"), ""),
    triggers=(f"{CHANNEL}commentary to=functions.",),
    reasoning=ANALYSIS,
    visible_tokens=(START, CHANNEL, CONSTRAIN, MESSAGE, END),
    parallel=False,
    around_answer=(f"{CHANNEL}final{MESSAGE}", ""),
    arrange=_arranged,
)
