"""The input of ``/v1/responses``: items of a conversation, turned into the messages that templates know.

What an assistant did in one turn (reasoning, a message, calls) comes as items in a row and becomes one message. Items
of tools that run elsewhere, and references to items that were never kept, are refused with their place.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.request import ToolCall
from plugsky.server.failures import bad
from plugsky.server.openai.messages import Images, null

_CallId = Annotated[str, Meta(min_length=1, max_length=256)]
SERVED = ("message", "function_call", "function_call_output", "reasoning")


class InputText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """What a person wrote."""

    text: str
    prompt_cache_breakpoint: Raw = msgspec.field(default_factory=null)


class InputImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_image"):
    """A picture."""

    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: str | None = None
    prompt_cache_breakpoint: Raw = msgspec.field(default_factory=null)


class OutputText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """What a model wrote, echoed."""

    text: str
    annotations: Raw = msgspec.field(default_factory=null)
    logprobs: Raw = msgspec.field(default_factory=null)


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """What a model refused with, echoed."""

    refusal: str


class ReasoningText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"):
    """What a model thought, echoed."""

    text: str


class SummaryText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="summary_text"):
    """What a model thought, in short."""

    text: str


Part = InputText | InputImage | OutputText | Refusal | ReasoningText


class ItemFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item of any kind that is served; without a type it is a message."""

    type: Annotated[str, Meta(max_length=64)] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    call_id: _CallId | None = None
    name: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    summary: list[SummaryText] | None = None
    encrypted_content: str | None = None


class Reader:
    """Reads the items of one request. ``images`` holds the bytes of their images."""

    def __init__(self, ignored: set[str]) -> None:
        self.images = Images(ignored)
        self._messages: list[frames.Message] = []

    def read(self, items: Sequence[ItemFields]) -> tuple[frames.Message, ...]:
        """The conversation. Raises ``bad_request`` or ``unsupported_field`` with the place of an item."""
        for number, item in enumerate(items):
            place = f"input[{number}]"
            match item.type:
                case "message":
                    self._message(place, item)
                case "function_call":
                    self._call(place, item)
                case "function_call_output":
                    self._output(place, item)
                case "reasoning":
                    self._reasoning(place, item)
                case _:
                    raise PlugskyError(
                        ErrorKind.UNSUPPORTED_FIELD,
                        f"{place} is an item of a type that is not served here",
                        why=f"served are {', '.join(SERVED)}; nothing is stored that an item could refer to",
                        param=f"{place}.type",
                    )
        return tuple(self._messages)

    def _message(self, place: str, item: ItemFields) -> None:
        if item.role is None:
            raise bad(f"{place}.role", "it is missing")
        if item.content is None:
            raise bad(f"{place}.content", "it is missing")
        content = self._content(f"{place}.content", item.content)
        if item.role == "assistant":
            before = self._open_turn()
            if not before.content and not before.tool_calls:
                self._messages[-1] = msgspec.structs.replace(before, content=content)
                return
        self._messages.append(frames.Message("system" if item.role == "developer" else item.role, content))

    def _call(self, place: str, item: ItemFields) -> None:
        if item.call_id is None or item.name is None:
            raise bad(place, "a function_call has a call_id and a name")
        turn = self._open_turn()
        call = ToolCall(item.call_id, item.name, item.arguments or "")
        self._messages[-1] = msgspec.structs.replace(turn, tool_calls=(*turn.tool_calls, call))

    def _output(self, place: str, item: ItemFields) -> None:
        if item.call_id is None or item.output is None:
            raise bad(place, "a function_call_output has a call_id and an output")
        content = self._content(f"{place}.output", item.output)
        self._messages.append(frames.Message("tool", content, tool_call_id=item.call_id))

    def _reasoning(self, place: str, item: ItemFields) -> None:
        if item.encrypted_content:
            raise PlugskyError(
                ErrorKind.UNSUPPORTED_FIELD,
                f"{place}.encrypted_content cannot be read here",
                why="another service encrypted it",
                param=f"{place}.encrypted_content",
            )
        parts = item.content if isinstance(item.content, list) else item.summary or []
        thought = "".join(part.text for part in parts if isinstance(part, ReasoningText | SummaryText))
        self._messages.append(frames.Message("assistant", reasoning=thought))

    def _open_turn(self) -> frames.Message:
        """The assistant's turn that goes on."""
        if not self._messages or self._messages[-1].role != "assistant":
            self._messages.append(frames.Message("assistant"))
        return self._messages[-1]

    def _content(self, place: str, content: str | list[Part]) -> str | tuple[str | frames.ImagePart, ...]:
        if isinstance(content, str):
            return content
        parts = tuple(self._part(f"{place}[{number}]", part) for number, part in enumerate(content))
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) if len(texts) == len(parts) else parts

    def _part(self, place: str, part: Part) -> str | frames.ImagePart:
        match part:
            case InputText(text=text) | OutputText(text=text) | ReasoningText(text=text):
                return text
            case Refusal(refusal=text):
                return text
            case InputImage():
                if part.file_id is not None or part.image_url is None:
                    raise bad(f"{place}.image_url", "an image is sent as a data: address")
                return self.images.take(place, part.image_url, f"{place}.image_url", part.detail)
