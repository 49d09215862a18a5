"""Reading the body of ``/v1/completions``: prompts that go to the model as they are, texts or token ids."""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.failures import bad
from plugsky.server.openai.generating_fields import GeneratingFields, params_of, stream_options
from plugsky.server.openai.inputs import Inputs, prompts_of
from plugsky.server.openai.tables import EXTENSIONS
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Tables

COMPLETIONS: Final = Tables(
    honoured=frozenset(
        {
            "model", "prompt", "suffix", "echo", "best_of", "n", "logprobs", "max_tokens", "stream", "stream_options",
            "stop", "seed", "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "user",
        }
    ),
    ignored={},
    refused={},
    extensions=EXTENSIONS - {"chat_template_kwargs"},
)  # fmt: skip
DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's own, and short: those who want more of a bare completion say so."""
MAX_PROMPTS: Final = 128
MAX_ANSWERS: Final = 256
"""Of one request: prompts times what is tried for each."""


class CompletionFields(GeneratingFields, frozen=True, kw_only=True):
    """The honoured parameters with their types and bounds."""

    prompt: Inputs
    suffix: str | None = None
    echo: bool | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


@dataclass(frozen=True)
class CompletionRequest:
    """A body that was read. Of ``tries`` answers to each prompt the ``n`` surest are given."""

    model: str
    prompts: tuple[Prompt, ...]
    params: frames.Params
    n: int
    tries: int
    max_tokens: int | None
    echo: bool
    logprobs: bool
    stream: bool
    include_usage: bool
    end_user: str
    ignored: tuple[str, ...]


def parse(body: bytes, limits: Limits) -> CompletionRequest:
    """Read a body by the tables. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = COMPLETIONS.sort(decode(body, dict[str, Raw]))
    fields = decode(body, CompletionFields)
    options = stream_options(fields, ignored)
    n, echo = fields.n or 1, bool(fields.echo)
    tries = n if fields.best_of is None else fields.best_of
    max_tokens = DEFAULT_MAX_TOKENS if fields.max_tokens is None else fields.max_tokens
    if tries < n:
        raise bad("best_of", "it is at least n")
    if tries > n and fields.stream:
        raise bad("best_of", "which answers are best is known at their end: ask without stream")
    if max_tokens == 0 and not echo:
        raise bad("max_tokens", "0 goes with echo: there would be no answer at all")
    prompts = _prompts(fields, tries)
    scored = fields.logprobs if fields.logprobs is not None else 0 if max_tokens == 0 else None
    return CompletionRequest(
        model=fields.model,
        prompts=prompts,
        params=params_of(
            fields,
            limits,
            logprobs=fields.logprobs if tries == n else (fields.logprobs or 0),
            prompt=scored if echo else None,
        ),
        n=n,
        tries=tries,
        max_tokens=max_tokens,
        echo=echo,
        logprobs=fields.logprobs is not None,
        stream=bool(fields.stream),
        include_usage=bool(options.include_usage),
        end_user=fields.user or "",
        ignored=tuple(sorted(ignored)),
    )


def _prompts(fields: CompletionFields, tries: int) -> tuple[Prompt, ...]:
    placed = prompts_of("prompt", fields.prompt, MAX_PROMPTS)
    if len(placed) * tries > MAX_ANSWERS:
        raise bad("best_of" if fields.best_of else "n", f"one request has at most {MAX_ANSWERS} answers")
    if fields.suffix is not None and any(each.prompt.text is None for each in placed):
        raise bad("suffix", "it goes with texts, not with token ids")
    return tuple(
        msgspec.structs.replace(
            each.prompt, suffix=fields.suffix, grammar=fields.grammar or "", shown=bool(fields.echo)
        )
        for each in placed
    )
