"""Reading the bodies of Mistral's dialect: translated, parameter by parameter, and read by the same readers.

A place at fault is told by the name that the client gave it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.failures import bad
from plugsky.server.mistral.tables import CHAT, EMBEDDINGS, FIM, OPENAI_NAMES
from plugsky.server.openai import completion_fields, embedding_fields, fields
from plugsky.server.openai.completion_fields import CompletionRequest
from plugsky.server.openai.embedding_fields import EmbeddingRequest
from plugsky.server.openai.fields import ChatRequest
from plugsky.server.request_json import decode

RequestT = TypeVar("RequestT", ChatRequest, CompletionRequest, EmbeddingRequest)
_Text = Annotated[str, Meta(max_length=8 << 20)]
_GIVEN_NAMES: Final = {theirs: ours for ours, theirs in OPENAI_NAMES.items()}


class TextChunk(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A text in a message."""

    text: _Text


class ThinkChunk(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """What an assistant thought, echoed."""

    thinking: list[TextChunk]
    closed: bool | None = None


class ImageAddress(Struct, frozen=True, forbid_unknown_fields=True):
    """Where an image is."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageChunk(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    """An image in a message."""

    image_url: str | ImageAddress


class Called(Struct, frozen=True, forbid_unknown_fields=True):
    """What an assistant called; the arguments as text or as an object."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: str | dict[str, Any] = ""


class Call(Struct, frozen=True, forbid_unknown_fields=True):
    """A call that an assistant made."""

    function: Called
    id: Annotated[str, Meta(max_length=256)] = ""
    type: Literal["function"] | None = None
    index: int | None = None


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextChunk | ThinkChunk | ImageChunk] | None = None
    tool_calls: Annotated[list[Call], Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=256)] | None = None
    name: str | None = None
    prefix: bool | None = None


class ChatFields(Struct, frozen=True):
    """What is Mistral's own in a body of ``chat/completions``."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    tool_choice: Any = None


class FimFields(Struct, frozen=True):
    """What is Mistral's own in a body of ``fim/completions``."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    prompt: Annotated[str, Meta(min_length=1)]
    suffix: str | None = None
    max_tokens: int | None = None


class EmbeddingFields(Struct, frozen=True):
    """What is Mistral's own in a body of ``embeddings``."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | list[str]


def parse_chat(body: bytes, limits: Limits) -> ChatRequest:
    """Read a body by the tables. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    names = decode(body, dict[str, Raw])
    ignored = CHAT.sort(names)
    own = decode(body, ChatFields)
    plain = _renamed(names, CHAT.honoured)
    plain["messages"] = [_message(number, message) for number, message in enumerate(own.messages)]
    if own.tool_choice == "any":
        plain["tool_choice"] = "required"
    return _read(fields.parse, plain, limits, ignored)


def parse_fim(body: bytes, limits: Limits) -> CompletionRequest:
    """Read a body by the tables. Raises like :func:`parse_chat`."""
    names = decode(body, dict[str, Raw])
    ignored = FIM.sort(names)
    own = decode(body, FimFields)
    plain = _renamed(names, FIM.honoured)
    plain["suffix"] = own.suffix or None
    request = _read(completion_fields.parse, plain, limits, ignored)
    return request if own.max_tokens is not None else replace(request, max_tokens=None)


def parse_embeddings(body: bytes, limits: Limits) -> EmbeddingRequest:
    """Read a body by the tables. Raises like :func:`parse_chat`."""
    names = decode(body, dict[str, Raw])
    ignored = EMBEDDINGS.sort(names)
    decode(body, EmbeddingFields)
    return _read(embedding_fields.parse, _renamed(names, EMBEDDINGS.honoured), limits, ignored)


def _renamed(names: Mapping[str, Raw], honoured: frozenset[str]) -> dict[str, Any]:
    return {OPENAI_NAMES.get(name, name): raw for name, raw in names.items() if name in honoured}


def _read(
    read: Callable[[bytes, Limits], RequestT], plain: Mapping[str, Any], limits: Limits, ignored: set[str]
) -> RequestT:
    try:
        return _ignoring(read(msgspec.json.encode(plain), limits), ignored)
    except PlugskyError as error:
        if error.param is not None:
            given = _GIVEN_NAMES.get(error.param, error.param)
            error.what = error.what.replace(repr(error.param), repr(given), 1)
            error.param = given
        raise


def _ignoring(request: RequestT, ignored: set[str]) -> RequestT:
    return replace(request, ignored=tuple(sorted({*ignored, *request.ignored})))


def _message(number: int, message: Message) -> dict[str, Any]:
    place = f"messages[{number}]"
    if message.prefix:
        raise bad(f"{place}.prefix", "an answer is begun by the model itself")
    shape: dict[str, Any] = {"role": message.role}
    thought: list[str] = []
    if isinstance(message.content, list):
        shape["content"] = [part for chunk in message.content if (part := _part(chunk, thought)) is not None]
    else:
        shape["content"] = message.content
    if thought:
        shape["reasoning_content"] = "".join(thought)
    if message.tool_calls:
        shape["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        shape["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        shape["name"] = message.name
    return shape


def _part(chunk: TextChunk | ThinkChunk | ImageChunk, thought: list[str]) -> dict[str, Any] | None:
    match chunk:
        case TextChunk(text):
            return {"type": "text", "text": text}
        case ThinkChunk(thinking):
            thought += [part.text for part in thinking]
            return None
        case ImageChunk(str() as url):
            return {"type": "image_url", "image_url": {"url": url}}
        case ImageChunk(address):
            return {"type": "image_url", "image_url": msgspec.to_builtins(address)}


def _call(call: Call) -> dict[str, Any]:
    given = call.function.arguments
    arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
