"""The messages of a chat as OpenAI's clients send them, what they echo from earlier answers included.

An image is the bytes of a ``data:`` address; no other address is ever looked at. What a message says that no model here
takes (audio, files, the calls of old) is refused with its place; names without an effect are told of.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.request import ToolCall
from plugsky.server.failures import bad
from plugsky.server.images import Base64Images

_EMPTY: Final = frozenset({b"null", b"[]"})
_REFUSED: Final = ("audio", "function_call")
_DATA: Final = "data:"
_BASE64: Final = ";base64"


def null() -> Raw:
    """The default of a field that is looked at only to see whether it says anything."""
    return Raw(b"null")


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A part of a message's content."""

    text: str
    prompt_cache_breakpoint: Raw = msgspec.field(default_factory=null)


class RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """What an assistant refused with, echoed."""

    refusal: str


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an image is. ``detail`` has no effect: a projector has one size of picture."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image in a message."""

    image_url: ImageUrl
    prompt_cache_breakpoint: Raw = msgspec.field(default_factory=null)


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was called, with the text of its arguments."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: str = ""


class CallFields(msgspec.Struct, frozen=True):
    """A call that an assistant made."""

    function: FunctionCall
    id: Annotated[str, Meta(max_length=256)] = ""
    type: Literal["function"] = "function"
    index: int | None = None


class MessageFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart | RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[CallFields], Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=256)] | None = None
    annotations: Raw = msgspec.field(default_factory=null)
    audio: Raw = msgspec.field(default_factory=null)
    function_call: Raw = msgspec.field(default_factory=null)


class Images(Base64Images):
    """The images of one request, in their order. ``ignored`` collects what has no effect."""

    def __init__(self, ignored: set[str]) -> None:
        super().__init__()
        self._ignored = ignored

    def take(self, place: str, url: str, url_place: str, detail: str | None) -> frames.ImagePart:
        """The part of a message that stands for the image at this address."""
        if detail not in {None, "auto"}:
            self._ignored.add("detail")
        return self.add(place, url_place, _data_of(url_place, url))


class Reader:
    """Reads messages one by one: ``images`` collects their images, ``ignored`` what has no effect."""

    def __init__(self, ignored: set[str]) -> None:
        self.images = Images(ignored)
        self._ignored = ignored

    def read(self, number: int, message: MessageFields) -> frames.Message:
        """The message at place ``number``. Raises ``bad_request``, ``unsupported_field`` or ``not_supported``."""
        place = f"messages[{number}]"
        for name in _REFUSED:
            if bytes(getattr(message, name)) not in _EMPTY:
                raise PlugskyError(
                    ErrorKind.UNSUPPORTED_FIELD, f"{place}.{name} is not supported here", param=f"{place}.{name}"
                )
        if message.refusal:
            self._ignored.add("messages.refusal")
        if message.name and message.role != "tool":
            self._ignored.add("messages.name")  # few templates look at it
        called = message.tool_calls or ()
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in called)
        if message.role != "assistant":
            if message.content is None:
                raise bad(f"{place}.content", "it is missing")
            if calls:
                raise bad(f"{place}.tool_calls", "only an assistant calls tools")
        if message.role == "tool" and not message.tool_call_id:
            raise bad(f"{place}.tool_call_id", "it says which call this is the answer to")
        return frames.Message(
            role="system" if message.role == "developer" else message.role,
            content=self._content(f"{place}.content", message.content),
            reasoning=message.reasoning_content or "",
            tool_calls=calls,
            tool_call_id=message.tool_call_id or "",
            name=message.name or "",
        )

    def _content(
        self, place: str, content: str | list[TextPart | ImagePart | RefusalPart] | None
    ) -> str | tuple[str | frames.ImagePart, ...]:
        if not isinstance(content, list):
            return content or ""
        parts = tuple(self._part(f"{place}[{number}]", part) for number, part in enumerate(content))
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) if len(texts) == len(parts) else parts

    def _part(self, place: str, part: TextPart | ImagePart | RefusalPart) -> str | frames.ImagePart:
        if isinstance(part, TextPart):
            return part.text
        if isinstance(part, RefusalPart):
            return part.refusal
        return self.images.take(place, part.image_url.url, f"{place}.image_url.url", part.image_url.detail)


def _data_of(place: str, url: str) -> str:
    """The base64 of a ``data:`` address."""
    head, comma, data = url.partition(",")
    if not head.startswith(_DATA) or not comma:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"{place} is no data: address",
            why="nothing is fetched from here",
            next="send the image itself, as data:image/png;base64,…",
            param=place,
        )
    if not head.endswith(_BASE64):
        raise bad(place, "the image is not in base64")
    return data
