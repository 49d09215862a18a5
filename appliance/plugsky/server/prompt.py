"""What a dialect asks of a model: the fields of ``prepare`` that a request decides, whatever its dialect calls them."""

from typing import Any

import msgspec

from plugsky.core import frames


class Prompt(msgspec.Struct, frozen=True):
    """One prompt and what its answer must be. Exactly one of messages, text, tokens and pair is given.

    The fields are those of :class:`~plugsky.core.frames.Prepare`.
    """

    messages: tuple[frames.Message, ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    pair: tuple[str, str] | None = None
    adapter: str = ""
    grammar: str = ""
    json_schema: str = ""
    tools: tuple[frames.Tool, ...] = ()
    tool_choice: frames.ToolChoice = "auto"
    tool_name: str = ""
    parallel_tool_calls: bool = True
    thinking: bool | None = None
    reasoning_effort: frames.Effort = ""
    images: tuple[bytes, ...] = ()
    suffix: str | None = None
    framed: bool = True
    shown: bool = False

    @property
    def callable(self) -> frozenset[str]:
        """The names of the tools that the answer may call."""
        return frozenset() if self.tool_choice == "none" else frozenset(tool.name for tool in self.tools)

    def given(self) -> dict[str, Any]:
        """The fields that say something, by name."""
        named = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in named.items() if value != getattr(_NOTHING, name)}


_NOTHING = Prompt()
