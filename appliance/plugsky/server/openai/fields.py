"""Reading the body of ``/v1/chat/completions``: names by the tables, then types and bounds.

A wrong type or range is a 400 that names the place. Nothing is cut, rounded or dropped in silence.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.failures import bad
from plugsky.server.openai.generating_fields import Count, EndUser, GeneratingFields, params_of, stream_options
from plugsky.server.openai.messages import MessageFields, Reader
from plugsky.server.openai.tables import CHAT
from plugsky.server.openai.tools import Choice, Form, FunctionTool, offer, schema_of
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode

MAX_CHOICES: Final = 8


class TemplateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a template may be told: whether the model thinks first, under the two names that templates use."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class ChatFields(GeneratingFields, frozen=True, kw_only=True):
    """The honoured parameters with their types and bounds."""

    messages: Annotated[list[MessageFields], Meta(min_length=1)]
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Form | None = None
    reasoning_effort: frames.Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None
    safety_identifier: EndUser | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A body that was read: what to run, how to answer, and what was accepted without effect."""

    model: str
    prompt: Prompt
    params: frames.Params
    n: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    end_user: str
    ignored: tuple[str, ...]


def parse(body: bytes, limits: Limits) -> ChatRequest:
    """Read a body by the tables. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = CHAT.sort(decode(body, dict[str, Raw]))
    fields = decode(body, ChatFields)
    if len(fields.messages) > limits.max_messages:
        raise bad("messages", f"there are {len(fields.messages)}; the limit is {limits.max_messages}")
    options = stream_options(fields, ignored)
    prompt = prompt_of(fields, ignored)
    return ChatRequest(
        model=fields.model,
        prompt=prompt,
        params=_params(fields, limits),
        n=fields.n or 1,
        max_tokens=fields.max_completion_tokens or fields.max_tokens,
        stream=bool(fields.stream),
        include_usage=bool(options.include_usage),
        end_user=fields.user or fields.safety_identifier or "",
        ignored=tuple(sorted(ignored)),
    )


def prompt_of(fields: ChatFields, ignored: set[str]) -> Prompt:
    """What the fields ask of a model; ``ignored`` takes in what has no effect. Raises ``bad_request``."""
    reader = Reader(ignored)
    messages = tuple(reader.read(number, message) for number, message in enumerate(fields.messages))
    told = fields.chat_template_kwargs or TemplateOptions()
    return Prompt(
        messages=messages,
        images=tuple(reader.images.files),
        grammar=fields.grammar or "",
        json_schema=schema_of(fields.response_format),
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        thinking=told.thinking if told.enable_thinking is None else told.enable_thinking,
        reasoning_effort=fields.reasoning_effort or "",
        **offer(fields.tools, fields.tool_choice),
    )


def _params(fields: ChatFields, limits: Limits) -> frames.Params:
    if fields.top_logprobs and not fields.logprobs:
        raise bad("top_logprobs", "it is allowed only when logprobs is true")
    return params_of(fields, limits, (fields.top_logprobs or 0) if fields.logprobs else None)
