"""Reading the bodies of ``messages`` and ``messages/count_tokens``: names by the tables, then types and bounds.

A wrong type or range is a 400 that names the place. Nothing is cut, rounded or dropped in silence.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.anthropic.blocks import Block, Reader, TextBlock, TurnFields
from plugsky.server.anthropic.tables import COUNT_TOKENS, MESSAGES
from plugsky.server.anthropic.tools import Choice, ToolFields, offer
from plugsky.server.bounds import stop_strings
from plugsky.server.failures import bad
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode

_SAMPLING: Final = ("temperature", "top_k", "top_p")
_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Display = Literal["summarized", "omitted"]


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom the request is made for."""

    user_id: Annotated[str, Meta(max_length=512)] | None = None


class ThinkingEnabled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="enabled"):
    """The model thinks first. It has no budget of its own beside ``max_tokens``."""

    budget_tokens: _Count | None = None
    display: _Display | None = None


class ThinkingAdaptive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="adaptive"):
    """The model thinks when it does so by itself."""

    display: _Display | None = None


class ThinkingDisabled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="disabled"):
    """The model does not think first."""


class JsonFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """An answer that a schema allows."""

    schema: Raw


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the model thinks, and the form of its answer."""

    effort: Literal["low", "medium", "high", "xhigh"] | None = None
    format: JsonFormat | None = None


class CountTokensFields(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the prompt, with types and bounds."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[TurnFields], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[ToolFields] | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None


class MessagesFields(CountTokensFields, frozen=True, kw_only=True):
    """The honoured parameters with their types and bounds."""

    max_tokens: _Count
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    temperature: _Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    top_p: _Share | None = None


@dataclass(frozen=True)
class CountRequest:
    """A prompt to be counted, and what was accepted without effect."""

    model: str
    prompt: Prompt
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class MessagesRequest(CountRequest):
    """A body that was read: what to run, and how to answer."""

    params: frames.Params
    max_tokens: int
    stream: bool
    end_user: str
    shows_thinking: bool
    n: int = 1


def parse_count(body: bytes, limits: Limits) -> CountRequest:
    """Read a body of ``count_tokens``. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = COUNT_TOKENS.sort(decode(body, dict[str, Raw]))
    fields = decode(body, CountTokensFields)
    prompt = _prompt(fields, limits, ignored)
    return CountRequest(fields.model, prompt, tuple(sorted(ignored)))


def parse(body: bytes, limits: Limits) -> MessagesRequest:
    """Read a body of ``messages``. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = MESSAGES.sort(decode(body, dict[str, Raw]))
    fields = decode(body, MessagesFields)
    prompt = _prompt(fields, limits, ignored)
    thinking = fields.thinking
    if isinstance(thinking, ThinkingEnabled) and thinking.budget_tokens is not None:
        ignored.add("thinking.budget_tokens")
    display = None if thinking is None or isinstance(thinking, ThinkingDisabled) else thinking.display
    if display == "summarized":
        ignored.add("thinking.display")  # it is shown as it was thought
    return MessagesRequest(
        model=fields.model,
        prompt=prompt,
        params=_params(fields, limits),
        max_tokens=fields.max_tokens,
        stream=bool(fields.stream),
        end_user=(fields.metadata and fields.metadata.user_id) or "",
        shows_thinking=display != "omitted",
        ignored=tuple(sorted(ignored)),
    )


def _prompt(fields: CountTokensFields, limits: Limits, ignored: set[str]) -> Prompt:
    if len(fields.messages) > limits.max_messages:
        raise bad("messages", f"there are {len(fields.messages)}; the limit is {limits.max_messages}")
    reader = Reader(ignored)
    if fields.system:
        system: str | list[Block] = fields.system if isinstance(fields.system, str) else [*fields.system]
        reader.read("system", "system", system)
    for number, message in enumerate(fields.messages):
        reader.read(f"messages[{number}].content", message.role, message.content)
    told = fields.output_config or OutputConfig()
    return Prompt(
        messages=reader.messages(),
        images=tuple(reader.images.files),
        json_schema=bytes(told.format.schema).decode() if told.format is not None else "",
        thinking=_thinks(fields),
        reasoning_effort=told.effort or "",
        **offer(fields.tools or [], fields.tool_choice, ignored),
    )


def _thinks(fields: CountTokensFields) -> bool | None:
    """Whether the model is told to think first; None leaves it to the model."""
    if isinstance(fields.thinking, ThinkingEnabled):
        return True
    return False if isinstance(fields.thinking, ThinkingDisabled) else None


def _params(fields: MessagesFields, limits: Limits) -> frames.Params:
    given: dict[str, Any] = {name: getattr(fields, name) for name in _SAMPLING if getattr(fields, name) is not None}
    stop = stop_strings("stop_sequences", fields.stop_sequences or (), limits)
    return frames.Params(stop=stop, **{**limits.default_params, **given})
