"""Reading the body of ``/v1/chat/completions``: names by the tables, then types and bounds.

A wrong type or range is a 400 that names the place. Nothing is cut, rounded or dropped in silence.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.openai.tables import sort_names
from plugsky.server.request_json import decode

_NULL: Final = Raw(b"null")
_EMPTY: Final = frozenset({b"null", b"[]"})
_MESSAGE_REFUSED: Final = ("audio", "function_call", "tool_calls", "tool_call_id")
_SAMPLING: Final = (
    "temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty", "logit_bias",
)  # fmt: skip
"""Parameters that reach the sampler as they are."""
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_EndUser = Annotated[str, Meta(max_length=512)]


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A part of a message's content. Only text is served."""

    text: str
    prompt_cache_breakpoint: Raw = _NULL


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image in a message. No engine here reads images; its address is never looked at."""


class MessageFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message as clients send it, what they echo from earlier answers included."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | ImagePart] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: Raw = _NULL
    audio: Raw = _NULL
    function_call: Raw = _NULL
    tool_calls: Raw = _NULL
    tool_call_id: Raw = _NULL


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a stream. Obfuscation is a padding against listeners; there is none to switch off."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatFields(msgspec.Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[MessageFields], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[int, Meta(ge=0, lt=2**31)], Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)
        ]
        | None
    ) = None
    user: _EndUser | None = None
    safety_identifier: _EndUser | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A body that was read: what to run, how to answer, and what was accepted without effect."""

    model: str
    messages: tuple[frames.Message, ...]
    params: frames.Params
    max_tokens: int | None
    stream: bool
    include_usage: bool
    end_user: str
    ignored: tuple[str, ...]


def parse(body: bytes, limits: Limits) -> ChatRequest:
    """Read a body by the tables. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = sort_names(decode(body, dict[str, Raw]))
    fields = decode(body, ChatFields)
    if len(fields.messages) > limits.max_messages:
        raise _bad("messages", f"there are {len(fields.messages)}; the limit is {limits.max_messages}")
    if fields.stream_options is not None and not fields.stream:
        raise _bad("stream_options", "it is allowed only when stream is true")
    options = fields.stream_options or StreamOptions()
    if options.include_obfuscation:
        ignored.add("stream_options.include_obfuscation")
    return ChatRequest(
        model=fields.model,
        messages=tuple(_message(number, message, ignored) for number, message in enumerate(fields.messages)),
        params=_params(fields, limits),
        max_tokens=fields.max_completion_tokens or fields.max_tokens,
        stream=bool(fields.stream),
        include_usage=bool(options.include_usage),
        end_user=fields.user or fields.safety_identifier or "",
        ignored=tuple(sorted(ignored)),
    )


def _message(number: int, message: MessageFields, ignored: set[str]) -> frames.Message:
    place = f"messages[{number}]"
    for name in _MESSAGE_REFUSED:
        if bytes(getattr(message, name)) not in _EMPTY:
            raise PlugskyError(
                ErrorKind.UNSUPPORTED_FIELD,
                f"{place}.{name} is not supported here",
                why="only text is served, without tools",
                param=f"{place}.{name}",
            )
    ignored.update(f"messages.{name}" for name in ("name", "refusal", "reasoning_content") if getattr(message, name))
    role = "system" if message.role == "developer" else message.role
    if message.content is None and role != "assistant":
        raise _bad(f"{place}.content", "it is missing")
    if isinstance(message.content, list):
        return frames.Message(
            role, "\n".join(_text(f"{place}.content[{n}]", it) for n, it in enumerate(message.content))
        )
    return frames.Message(role, message.content or "")


def _text(place: str, part: TextPart | ImagePart) -> str:
    if isinstance(part, ImagePart):
        raise PlugskyError(
            ErrorKind.NOT_SUPPORTED, f"{place} is an image", why="no model here reads images", param=place
        )
    return part.text


def _params(fields: ChatFields, limits: Limits) -> frames.Params:
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    if len(stop) > limits.max_stop_strings:
        raise _bad("stop", f"there are {len(stop)}; the limit is {limits.max_stop_strings}")
    if any(not 0 < len(text) <= limits.max_stop_chars for text in stop):
        raise _bad("stop", f"each is 1 to {limits.max_stop_chars} characters long")
    given: dict[str, Any] = {name: getattr(fields, name) for name in _SAMPLING if getattr(fields, name) is not None}
    seed = None if fields.seed is None else fields.seed % 2**32
    return frames.Params(seed=seed, stop=stop, **given)


def _bad(place: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, f"The parameter {place} cannot be used", why=why, param=place)
