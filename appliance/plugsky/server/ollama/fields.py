"""Reading the bodies of ``/api/chat`` and ``/api/generate``.

What concerns the running of a model (its context, threads, GPU layers, how long it stays loaded) is the site's to
decide: it is accepted and reported. Models are not pulled, made or deleted through this API.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.core.request import ToolCall
from plugsky.server.failures import bad
from plugsky.server.images import Base64Images
from plugsky.server.openai.tools import ANY_OBJECT, FunctionTool, offer
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Refused, Tables

_ALIKE: Final = frozenset({"model", "stream", "format", "options", "think", "logprobs", "top_logprobs"})
_SITE: Final = {"keep_alive": "the site decides how long a model stays loaded"}
CHAT: Final = Tables(_ALIKE | {"messages", "tools"}, _SITE, {})
GENERATE: Final = Tables(
    _ALIKE | {"prompt", "system", "raw", "images"},
    _SITE,
    {
        "suffix": Refused("models of this site complete at the end", ("",)),
        "template": Refused("a model has the template it was signed with", ("",)),
        "context": Refused("a conversation is sent as messages to /api/chat", ([],)),
        "width": Refused("models of this site answer in text"),
        "height": Refused("models of this site answer in text"),
        "steps": Refused("models of this site answer in text"),
    },
)
_MACHINE: Final = "it is decided when the model is loaded"
_LOADING: Final = (
    "numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap",
    "use_mlock", "embedding_only", "num_thread", "num_keep", "mirostat_tau", "mirostat_eta", "penalize_newline",
)  # fmt: skip
OPTIONS: Final = Tables(
    frozenset(
        {
            "seed", "num_predict", "top_k", "top_p", "typical_p", "repeat_last_n", "temperature", "repeat_penalty",
            "presence_penalty", "frequency_penalty", "stop",
        }
    ),
    dict.fromkeys(_LOADING, _MACHINE),
    {
        "mirostat": Refused("this sampler is not served", (0,)),
        "tfs_z": Refused("this sampler is not served", (1, 1.0)),
    },
    frozenset({"min_p"}),
)  # fmt: skip
_SAMPLING: Final = {
    name: name
    for name in (
        "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature", "repeat_penalty", "presence_penalty",
        "frequency_penalty",
    )
}  # fmt: skip
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Model = Annotated[str, Meta(min_length=1, max_length=256)]
_Name = Annotated[str, Meta(min_length=1, max_length=128)]
_Think = bool | Literal["low", "medium", "high"]


class OptionFields(msgspec.Struct, frozen=True):
    """The options that are honoured."""

    seed: int | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=2**31 - 1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    top_p: _Share | None = None
    min_p: _Share | None = None
    typical_p: _Share | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    stop: str | list[str] | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """A function that an assistant called."""

    name: _Name
    arguments: dict[str, Any] = {}


class CallFields(msgspec.Struct, frozen=True):
    """A call of an assistant."""

    function: CalledFunction


class MessageFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_name: str | None = None
    tool_calls: Annotated[list[CallFields], Meta(max_length=128)] | None = None


class ChatFields(msgspec.Struct, frozen=True):
    """The honoured parameters of a chat."""

    model: _Model
    messages: Annotated[list[MessageFields], Meta(min_length=1)]
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: dict[str, Raw] | None = None
    think: _Think | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[FunctionTool] | None = None


class GenerateFields(msgspec.Struct, frozen=True):
    """The honoured parameters of a completion."""

    model: _Model
    prompt: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: dict[str, Raw] | None = None
    think: _Think | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[str] | None = None


@dataclass(frozen=True)
class OllamaRequest:
    """A body that was read."""

    model: str
    prompt: Prompt
    params: frames.Params
    max_tokens: int | None
    stream: bool
    ignored: tuple[str, ...]
    end_user: str = ""
    n: int = 1


def parse_chat(body: bytes, limits: Limits) -> OllamaRequest:
    """Read the body of a chat. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = CHAT.sort(decode(body, dict[str, Raw]))
    fields = decode(body, ChatFields)
    if len(fields.messages) > limits.max_messages:
        raise bad("messages", f"there are {len(fields.messages)}; the limit is {limits.max_messages}")
    images = Base64Images()
    messages = []
    for number, message in enumerate(fields.messages):
        place = f"messages[{number}]"
        calls = tuple(
            ToolCall(f"call_{number}_{n}", call.function.name, msgspec.json.encode(call.function.arguments).decode())
            for n, call in enumerate(message.tool_calls or ())
        )
        if calls and message.role != "assistant":
            raise bad(f"{place}.tool_calls", "only an assistant calls tools")
        messages.append(
            frames.Message(
                message.role,
                _content(place, message.content, message.images, images),
                reasoning=message.thinking or "",
                tool_calls=calls,
                name=message.tool_name or "",
            )
        )
    prompt = Prompt(messages=tuple(messages), images=tuple(images.files), **_form(fields), **offer(fields.tools, None))
    return _request(fields, prompt, limits, ignored)


def parse_generate(body: bytes, limits: Limits) -> OllamaRequest:
    """Read the body of a completion, whose prompt is a chat of one message unless it is ``raw``."""
    ignored = GENERATE.sort(decode(body, dict[str, Raw]))
    fields = decode(body, GenerateFields)
    form = _form(fields)
    if fields.raw:
        for name, given in (("system", fields.system), ("images", fields.images), ("think", fields.think)):
            if given:
                raise bad(name, "a raw prompt goes to the model as it is")
        form.pop("thinking", None)
        return _request(fields, Prompt(text=fields.prompt, **form), limits, ignored)
    images = Base64Images()
    user = frames.Message("user", _content("prompt", fields.prompt, fields.images, images))
    messages = (frames.Message("system", fields.system), user) if fields.system else (user,)
    return _request(fields, Prompt(messages=messages, images=tuple(images.files), **form), limits, ignored)


def _request(fields: ChatFields | GenerateFields, prompt: Prompt, limits: Limits, ignored: set[str]) -> OllamaRequest:
    given = fields.options or {}
    ignored |= {f"options.{name}" for name in OPTIONS.sort(given)}
    options = decode(msgspec.json.encode(given), OptionFields)
    stop = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop or ())
    if len(stop) > limits.max_stop_strings:
        raise bad("options.stop", f"there are {len(stop)}; the limit is {limits.max_stop_strings}")
    if any(not 0 < len(text) <= limits.max_stop_chars for text in stop):
        raise bad("options.stop", f"each is 1 to {limits.max_stop_chars} characters long")
    if fields.top_logprobs and not fields.logprobs:
        raise bad("top_logprobs", "it is allowed only when logprobs is true")
    if options.num_predict == 0:
        raise bad("options.num_predict", "it is at least 1, or -1 for as many as the site allows")
    sampling: dict[str, Any] = {
        name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None
    }
    return OllamaRequest(
        model=fields.model,
        prompt=prompt,
        params=frames.Params(
            seed=None if options.seed is None else options.seed % 2**32,
            stop=stop,
            top_logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
            **{**limits.default_params, **sampling},
        ),
        max_tokens=options.num_predict if options.num_predict and options.num_predict > 0 else None,
        stream=fields.stream is not False,
        ignored=tuple(sorted(ignored)),
    )


def _form(fields: ChatFields | GenerateFields) -> dict[str, Any]:
    form: dict[str, Any] = {}
    if fields.format == "json":
        form["json_schema"] = ANY_OBJECT
    elif fields.format:
        form["json_schema"] = msgspec.json.encode(fields.format).decode()
    if isinstance(fields.think, bool):
        form["thinking"] = fields.think
    elif fields.think is not None:
        form["reasoning_effort"] = fields.think
    return form


def _content(
    place: str, text: str, given: list[str] | None, images: Base64Images
) -> str | tuple[str | frames.ImagePart, ...]:
    if not given:
        return text
    parts = (images.add(f"{place}.images", f"{place}.images[{n}]", data) for n, data in enumerate(given))
    return (*parts, text)
