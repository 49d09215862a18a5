"""What OpenAI's endpoints say of how tokens are drawn and where an answer ends: the same in all that generate text."""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.bounds import stop_strings
from plugsky.server.failures import bad

_SAMPLING: Final = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
    "repeat_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "ignore_eos",
    "logit_bias",
)  # fmt: skip
"""Parameters that reach the sampler as they are."""
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Lookback = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
EndUser = Annotated[str, Meta(max_length=512)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a stream. Obfuscation is a padding against listeners; there is none to switch off."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GeneratingFields(Struct, frozen=True, kw_only=True):
    """The honoured parameters that they share, with their types and bounds."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    typical_p: _Share | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    repeat_last_n: _Lookback | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=1, le=100)] | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: _Lookback | None = None
    ignore_eos: bool | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[int, Meta(ge=0, lt=2**31)], Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)
        ]
        | None
    ) = None
    grammar: str | None = None
    user: EndUser | None = None


def params_of(
    fields: GeneratingFields, limits: Limits, logprobs: int | None, prompt: int | None = None
) -> frames.Params:
    """How to draw. ``logprobs`` are the rivals to tell of for each token of the answer, ``prompt`` of the prompt."""
    stop = stop_strings("stop", (fields.stop,) if isinstance(fields.stop, str) else (fields.stop or ()), limits)
    given: dict[str, Any] = {name: getattr(fields, name) for name in _SAMPLING if getattr(fields, name) is not None}
    seed = None if fields.seed is None else fields.seed % 2**32
    params = {**limits.default_params, **given}
    return frames.Params(seed=seed, stop=stop, top_logprobs=logprobs, prompt_logprobs=prompt, **params)


def stream_options(fields: GeneratingFields, ignored: set[str]) -> StreamOptions:
    """The options of the stream; ``ignored`` takes in what has no effect. Raises ``bad_request`` without a stream."""
    if fields.stream_options is not None and not fields.stream:
        raise bad("stream_options", "it is allowed only when stream is true")
    options = fields.stream_options or StreamOptions()
    if options.include_obfuscation:
        ignored.add("stream_options.include_obfuscation")
    return options
