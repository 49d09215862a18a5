"""Tools, the choice among them, and the form of an answer, as OpenAI's clients ask for them.

Schemas pass through as they are: the engine compiles or refuses them. ``strict`` of a response's schema makes no
difference, because every schema is held to the letter.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.failures import bad

ANY_OBJECT: Final = '{"type":"object"}'
_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class FunctionFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """A tool."""

    function: FunctionFields


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function by its name."""

    name: _Name


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """The tool that must be called."""

    function: NamedFunction


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=128)]


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """A choice among some of the tools."""

    allowed_tools: Allowed


class SchemaFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schema for the answer, by a name. Name and description are for people."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema: Raw = msgspec.field(default_factory=lambda: Raw(b"{}"))
    strict: bool | None = None


class AsText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """An answer of any form."""


class AsObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """An answer that is a JSON object."""


class AsSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """An answer that a schema allows."""

    json_schema: SchemaFields


Choice = Literal["none", "auto", "required"] | NamedTool | AllowedTools
Form = AsText | AsObject | AsSchema


def schema_of(form: Form | None) -> str:
    """The JSON Schema of an answer of this form, as text; empty for any."""
    match form:
        case AsObject():
            return ANY_OBJECT
        case AsSchema():
            return bytes(form.json_schema.schema).decode()
    return ""


def offer(tools: list[FunctionTool] | None, choice: Choice | None) -> dict[str, Any]:
    """The tools on offer and the choice, as fields of a :class:`~plugsky.server.prompt.Prompt`.

    Raises ``bad_request`` for two of a name, and for a choice of what is not there.
    """
    known = {tool.function.name: _tool(tool.function) for tool in tools or ()}
    if len(known) != len(tools or ()):
        raise bad("tools", "two have the same name")
    if isinstance(choice, NamedTool):
        _check_known("tool_choice.function.name", choice.function.name, known)
        return {"tools": tuple(known.values()), "tool_choice": "required", "tool_name": choice.function.name}
    if isinstance(choice, AllowedTools):
        allowed = [tool.function.name for tool in choice.allowed_tools.tools]
        for name in allowed:
            _check_known("tool_choice.allowed_tools.tools", name, known)
        left = tuple(tool for name, tool in known.items() if name in allowed)
        return {"tools": left, "tool_choice": choice.allowed_tools.mode}
    if choice == "required" and not known:
        raise bad("tool_choice", "there is no tool to call")
    return {"tools": tuple(known.values()), "tool_choice": choice or "auto"} if known else {}


def _tool(function: FunctionFields) -> frames.Tool:
    return frames.Tool(
        function.name, function.description or "", function.parameters or {}, strict=bool(function.strict)
    )


def _check_known(place: str, name: str, known: dict[str, frames.Tool]) -> None:
    if name not in known:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST, f"The parameter {place} cannot be used", why="tools holds no such one", param=place
        )
