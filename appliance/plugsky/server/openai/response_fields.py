"""Reading the body of ``/v1/responses``. Nothing is stored: what asks for it, or refers to it, is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.failures import bad
from plugsky.server.openai.response_items import ItemFields, Reader
from plugsky.server.openai.tools import (
    ANY_OBJECT,
    Allowed,
    FunctionFields,
    FunctionTool,
    NamedFunction,
    NamedTool,
    offer,
)
from plugsky.server.openai.tools import AllowedTools as ChatAllowedTools
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Refused, Tables

_STORED = "nothing is stored between requests"
RESPONSES: Final = Tables(
    honoured=frozenset(
        {
            "model", "input", "instructions", "stream", "stream_options", "temperature", "top_p", "max_output_tokens",
            "top_logprobs", "include", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "user",
            "safety_identifier", "metadata",
        }
    ),
    ignored={
        "prompt_cache_key": "the cache finds its prefixes by itself",
        "prompt_cache_options": "the cache finds its prefixes by itself",
        "prompt_cache_retention": "the cache finds its prefixes by itself",
        "service_tier": "the site has one tier",
        "max_tool_calls": "tools run where the client is, which counts them",
    },
    refused={
        "access_programs": Refused("there are no programs to grant access to"),
        "background": Refused(_STORED, (False,)),
        "background_options": Refused(_STORED),
        "context_management": Refused("a conversation is as long as the client sends it", ([],)),
        "conversation": Refused(_STORED),
        "image": Refused("models of this site answer in text"),
        "moderation": Refused("there is no moderation model"),
        "previous_response_id": Refused(_STORED),
        "prompt": Refused("no prompt templates are stored here"),
        "store": Refused(_STORED, (False,)),
        "truncation": Refused("nothing is cut from a conversation", ("disabled",)),
    },
    extensions=frozenset({"top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repeat_penalty"}),
)  # fmt: skip
LOGPROBS: Final = "message.output_text.logprobs"
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_EndUser = Annotated[str, Meta(max_length=512)]
_SAMPLING: Final = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
)  # fmt: skip


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """A function that may be called."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OneFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """The function that must be called."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """A choice among some of the tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[OneFunction], Meta(min_length=1, max_length=128)]


class AsText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """An answer of any form."""


class AsObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """An answer that is a JSON object."""


class AsSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """An answer that a schema allows."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema: Raw
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the answer. ``medium`` is the verbosity that asks for nothing."""

    format: AsText | AsObject | AsSchema | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to think. Summaries are not made: the reasoning itself is told."""

    effort: frames.Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a stream. There is no obfuscation to switch off."""

    include_obfuscation: bool | None = None


class ResponseFields(msgspec.Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | list[ItemFields]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    tools: list[Function] | None = None
    tool_choice: Literal["none", "auto", "required"] | OneFunction | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    user: _EndUser | None = None
    safety_identifier: _EndUser | None = None
    metadata: dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]] | None = None


@dataclass(frozen=True)
class ResponseRequest:
    """A body that was read; ``echo`` is what the response repeats of it."""

    model: str
    prompt: Prompt
    params: frames.Params
    max_tokens: int | None
    stream: bool
    end_user: str
    ignored: tuple[str, ...]
    echo: Mapping[str, Any]
    n: int = 1


def parse(body: bytes, limits: Limits) -> ResponseRequest:
    """Read a body. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    raw = decode(body, dict[str, Raw])
    ignored = RESPONSES.sort(raw)
    fields = decode(body, ResponseFields)
    if fields.stream_options is not None and not fields.stream:
        raise bad("stream_options", "it is allowed only when stream is true")
    if fields.stream_options is not None and fields.stream_options.include_obfuscation:
        ignored.add("stream_options.include_obfuscation")
    if fields.reasoning is not None and (fields.reasoning.summary or fields.reasoning.generate_summary):
        ignored.add("reasoning.summary")
    included = fields.include or []
    if "reasoning.encrypted_content" in included:
        ignored.add("include.reasoning.encrypted_content")
    prompt = _prompt(fields, limits, ignored)
    given: dict[str, Any] = {name: getattr(fields, name) for name in _SAMPLING if getattr(fields, name) is not None}
    seed = None if fields.seed is None else fields.seed % 2**32
    logprobs = fields.top_logprobs or 0 if LOGPROBS in included or fields.top_logprobs else None
    return ResponseRequest(
        model=fields.model,
        prompt=prompt,
        params=frames.Params(seed=seed, top_logprobs=logprobs, **{**limits.default_params, **given}),
        max_tokens=fields.max_output_tokens,
        stream=bool(fields.stream),
        end_user=fields.user or fields.safety_identifier or "",
        ignored=tuple(sorted(ignored)),
        echo=_echo(fields, raw),
    )


def _prompt(fields: ResponseFields, limits: Limits, ignored: set[str]) -> Prompt:
    reader = Reader(ignored)
    items = [ItemFields(role="user", content=fields.input)] if isinstance(fields.input, str) else fields.input
    if not 0 < len(items) <= limits.max_messages:
        raise bad("input", f"there are {len(items)} items; 1 to {limits.max_messages} are allowed")
    messages = reader.read(items)
    if fields.instructions:
        messages = (frames.Message("system", fields.instructions), *messages)
    form = fields.text.format if fields.text else None
    schema = ANY_OBJECT if isinstance(form, AsObject) else ""
    if isinstance(form, AsSchema):
        schema = bytes(form.schema).decode()
    return Prompt(
        messages=messages,
        images=tuple(reader.images.files),
        json_schema=schema,
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        reasoning_effort=(fields.reasoning.effort if fields.reasoning else None) or "",
        **offer(_tools(fields), _choice(fields)),
    )


def _tools(fields: ResponseFields) -> list[FunctionTool]:
    return [
        FunctionTool(FunctionFields(tool.name, tool.description, tool.parameters, tool.strict))
        for tool in fields.tools or ()
    ]


def _choice(fields: ResponseFields) -> Literal["none", "auto", "required"] | NamedTool | ChatAllowedTools | None:
    match fields.tool_choice:
        case OneFunction(name=name):
            return NamedTool(NamedFunction(name))
        case AllowedTools(mode=mode, tools=tools):
            return ChatAllowedTools(Allowed(mode, [NamedTool(NamedFunction(tool.name)) for tool in tools]))
        case word:
            return word


def _echo(fields: ResponseFields, raw: Mapping[str, Raw]) -> dict[str, Any]:
    def given(name: str, default: object) -> object:
        return raw[name] if name in raw and bytes(raw[name]) != b"null" else default

    return {
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "reasoning": {"effort": fields.reasoning.effort if fields.reasoning else None, "summary": None},
        "temperature": 1.0 if fields.temperature is None else fields.temperature,
        "text": given("text", {"format": {"type": "text"}}),
        "tool_choice": given("tool_choice", "auto"),
        "tools": given("tools", []),
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": 1.0 if fields.top_p is None else fields.top_p,
        "user": fields.user,
    }
