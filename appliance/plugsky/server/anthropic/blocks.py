"""The messages of a conversation as Anthropic's clients send them, what they echo from earlier answers included.

A message is blocks: text, images, calls of tools, their results, thinking. Messages of one role in a row are one turn,
as the vendor has it; a result becomes a turn of its own in the place where it stands. What a block says that no model
here takes is refused with its place; what has no effect is told of.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.request import ToolCall
from plugsky.server.failures import bad
from plugsky.server.images import Base64Images

_Id = Annotated[str, Meta(min_length=1, max_length=256)]


class CacheControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mark where a cache may end. The cache finds its prefixes by itself."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl | None = None
    citations: list[Any] | None = None


class Base64Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="base64"):
    """The bytes of an image."""

    data: str
    media_type: Literal["image/jpeg", "image/png"]


class ImageBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source
    cache_control: CacheControl | None = None


class DirectCaller(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who called a tool: the model itself."""

    type: Literal["direct"]


class ToolUseBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call that an assistant made."""

    id: _Id
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    input: Annotated[Raw, Meta(description="a JSON object")]
    cache_control: CacheControl | None = None
    caller: DirectCaller | None = None
    toolset_name: None = None


class ToolResultBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"):
    """What a tool answered."""

    tool_use_id: _Id
    content: str | list[TextBlock | ImageBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


class ThinkingBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """What an assistant thought, echoed. Its signature proves nothing here."""

    thinking: str
    signature: str = ""


class RedactedBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"):
    """What another vendor's model thought, for its eyes only."""

    data: str


Block = TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedBlock


class TurnFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class _Turn:
    def __init__(self, role: str, call_id: str = "", name: str = "") -> None:
        self.role = role
        self.parts: list[str | frames.ImagePart] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []
        self._call_id = call_id
        self._name = name

    def message(self) -> frames.Message:
        texts = [part for part in self.parts if isinstance(part, str)]
        return frames.Message(
            role=self.role,
            content="\n".join(texts) if len(texts) == len(self.parts) else tuple(self.parts),
            reasoning="\n".join(self.thoughts),
            tool_calls=tuple(self.calls),
            tool_call_id=self._call_id,
            name=self._name,
        )


class Reader:
    """Reads the messages of one request, in their order. ``ignored`` collects what has no effect."""

    def __init__(self, ignored: set[str]) -> None:
        self.images = Base64Images()
        self._ignored = ignored
        self._turns: list[_Turn] = []
        self._called: dict[str, str] = {}

    def messages(self) -> tuple[frames.Message, ...]:
        """What was read. Raises ``bad_request`` for an answer that is begun for the model."""
        if self._turns and self._turns[-1].role == "assistant":
            raise bad("messages", "the last is the assistant's, and no model here goes on with a text it is given")
        return tuple(turn.message() for turn in self._turns)

    def read(self, place: str, role: str, content: str | list[Block]) -> None:
        """Take in one message. Raises ``bad_request`` with the place at fault."""
        if isinstance(content, str):
            self._turn(role).parts.append(content)
            return
        for number, block in enumerate(content):
            self._block(f"{place}[{number}]", role, block)

    def _block(self, place: str, role: str, block: Block) -> None:
        match block:
            case TextBlock() | ImageBlock():
                self._turn(role).parts.append(self._part(place, block))
            case ToolResultBlock() if role == "user":
                self._result(place, block)
            case ToolUseBlock() if role == "assistant":
                arguments = bytes(block.input).decode()
                if not arguments.startswith("{"):
                    raise bad(f"{place}.input", "it is no JSON object")
                self._mark(block.cache_control)
                self._called[block.id] = block.name
                self._turn(role).calls.append(ToolCall(block.id, block.name, arguments))
            case ThinkingBlock() if role == "assistant":
                self._turn(role).thoughts.append(block.thinking)
            case RedactedBlock() if role == "assistant":
                self._ignored.add("messages.content.redacted_thinking")
            case _:
                raise bad(place, f"a message of role {role} holds no such block")

    def _result(self, place: str, block: ToolResultBlock) -> None:
        if block.tool_use_id not in self._called:
            raise bad(f"{place}.tool_use_id", "no call before it has this id")
        self._mark(block.cache_control)
        if block.is_error:
            self._ignored.add("messages.content.is_error")
        turn = _Turn("tool", block.tool_use_id, self._called[block.tool_use_id])
        self._turns.append(turn)
        if isinstance(block.content, str):
            turn.parts.append(block.content)
            return
        for number, part in enumerate(block.content or ()):
            turn.parts.append(self._part(f"{place}.content[{number}]", part))

    def _part(self, place: str, block: TextBlock | ImageBlock) -> str | frames.ImagePart:
        self._mark(block.cache_control)
        if isinstance(block, ImageBlock):
            return self.images.add(place, f"{place}.source.data", block.source.data)
        if block.citations:
            self._ignored.add("messages.content.citations")
        return block.text

    def _mark(self, mark: CacheControl | None) -> None:
        if mark is not None:
            self._ignored.add("cache_control")

    def _turn(self, role: str) -> _Turn:
        """The turn that a message of ``role`` belongs to."""
        if not self._turns or self._turns[-1].role != role:
            self._turns.append(_Turn(role))
        return self._turns[-1]
