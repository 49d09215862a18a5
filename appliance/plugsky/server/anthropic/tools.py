"""Tools and the choice among them, as Anthropic's clients ask for them.

Schemas pass through as they are: the engine compiles or refuses them. Tools that the vendor itself runs, or that only
its own models know, are refused.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from plugsky.core import frames
from plugsky.server.anthropic.blocks import CacheControl
from plugsky.server.failures import bad

_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class ToolFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool."""

    name: _Name
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[dict[str, Any]] | None = None


class AutoChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="auto"):
    """The model may call tools."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="any"):
    """The model must call a tool."""

    disable_parallel_tool_use: bool | None = None


class NamedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tool"):
    """The model must call this tool."""

    name: _Name
    disable_parallel_tool_use: bool | None = None


class NoneChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="none"):
    """The model calls no tool."""


Choice = AutoChoice | AnyChoice | NamedChoice | NoneChoice


def offer(tools: list[ToolFields], choice: Choice | None, ignored: set[str]) -> dict[str, Any]:
    """The tools on offer and the choice, as fields of a :class:`~plugsky.server.prompt.Prompt`.

    Raises ``bad_request`` for two of a name, and for a choice of what is not there.
    """
    known = {tool.name: _tool(tool, ignored) for tool in tools}
    if len(known) != len(tools):
        raise bad("tools", "two have the same name")
    offered: dict[str, Any] = {"tools": tuple(known.values())}
    match choice:
        case NoneChoice():
            return {**offered, "tool_choice": "none"} if known else {}
        case AnyChoice() if not known:
            raise bad("tool_choice", "there is no tool to call")
        case AnyChoice():
            offered["tool_choice"] = "required"
        case NamedChoice(name=name):
            if name not in known:
                raise bad("tool_choice.name", "tools holds no such one")
            offered |= {"tool_choice": "required", "tool_name": name}
    if choice is not None:
        offered["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return offered if known else {}


def _tool(tool: ToolFields, ignored: set[str]) -> frames.Tool:
    if tool.cache_control is not None:
        ignored.add("cache_control")
    if tool.eager_input_streaming is not None:
        ignored.add("tools.eager_input_streaming")  # arguments always stream as they come
    if tool.input_examples:
        ignored.add("tools.input_examples")
    return frames.Tool(tool.name, tool.description or "", tool.input_schema, strict=bool(tool.strict))
