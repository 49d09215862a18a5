"""What a request asks of a model, as frames carry it: turns of a conversation, tools, how to choose tokens."""

from typing import Any, Literal

import msgspec

ToolChoice = Literal["auto", "none", "required"]
Effort = Literal["", "none", "minimal", "low", "medium", "high", "xhigh"]


class ToolCall(msgspec.Struct, frozen=True):
    """A call that an assistant made. ``arguments`` is what it wrote: JSON if it wrote any."""

    id: str
    name: str
    arguments: str


class ImagePart(msgspec.Struct, frozen=True):
    """An image in a message: which of those that the request brings, counted from 0."""

    image: int


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation. Parts of ``content`` are lines of one text, and images between them.

    An assistant's turn may hold ``reasoning`` and ``tool_calls``; one of role ``tool`` names the call it answers.
    """

    role: str
    content: str | tuple[str | ImagePart, ...] = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function the model may call. ``parameters`` is a JSON Schema, kept to the letter if ``strict``."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False


class Params(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose tokens. A temperature of 0 is greedy. A ``seed`` of None draws one.

    Penalties look back over the last ``repeat_last_n`` tokens of the answer, DRY over ``dry_penalty_last_n`` (-1: all).
    ``grammar`` is GBNF, as ``prepared`` gave it; with ``grammar_triggers`` it holds from the first of these texts on.
    ``show_special`` holds control tokens that appear in the answer's text, each as its own, as ``prepared`` gave them.
    ``top_logprobs`` asks for the log-probability of each token of the answer and of so many rivals, ``prompt_logprobs``
    for those of the prompt's tokens: 0 to 20.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[int, float] = {}
    top_logprobs: int | None = None
    ignore_eos: bool = False
    typical_p: float = 1.0
    repeat_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    grammar: str = ""
    grammar_triggers: tuple[str, ...] = ()
    show_special: dict[int, str] = {}
    prompt_logprobs: int | None = None
