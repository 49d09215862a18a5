"""Reading the bodies of Aleph Alpha's endpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw, Struct

from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.aleph_alpha.prompts import Given, TextItem, TokenIds, TokensItem, items_of
from plugsky.server.aleph_alpha.tables import (
    BATCH_SEMANTIC_EMBED,
    COMPLETE,
    DETOKENIZE,
    EMBED,
    EVALUATE,
    EXPLAIN,
    SEMANTIC_EMBED,
    TOKENIZE,
)
from plugsky.server.bounds import stop_strings
from plugsky.server.failures import bad
from plugsky.server.request_json import decode
from plugsky.server.tables import Tables

MAX_PROMPTS: Final = 100
Items = tuple[TextItem | TokensItem, ...]
Granularity = Literal["token", "word", "sentence", "paragraph", "custom"]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Bias = dict[Annotated[int, Meta(ge=0, lt=2**31)], Annotated[float, Meta(ge=-100, le=100)]]


class CompleteFields(Struct, frozen=True):
    """The honoured parameters of ``complete`` with their types and bounds."""

    model: _Name
    prompt: Given = ""
    maximum_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    top_p: _Share | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    logit_bias: Annotated[_Bias, Meta(max_length=1024)] | None = None
    log_probs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stop_sequences: list[str] | None = None
    tokens: bool | None = None
    echo: bool | None = None
    raw_completion: bool | None = None
    disable_optimizations: bool | None = None
    stream: bool | None = None


class EvaluateFields(Struct, frozen=True):
    """The honoured parameters of ``evaluate``."""

    model: _Name
    completion_expected: Annotated[str, Meta(min_length=1)]
    prompt: Given = ""


class PromptGranularity(Struct, frozen=True, forbid_unknown_fields=True):
    """How a prompt is cut into stretches."""

    type: Granularity
    delimiter: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class ExplainFields(Struct, frozen=True):
    """The honoured parameters of ``explain``."""

    model: _Name
    prompt: Given
    target: Annotated[str, Meta(min_length=1)]
    prompt_granularity: PromptGranularity | Granularity | None = None
    target_granularity: Literal["complete", "token"] | None = None
    postprocessing: Literal["none", "absolute", "square"] | None = None
    normalize: bool | None = None


class EmbedFields(Struct, frozen=True):
    """The honoured parameters of ``embed``."""

    model: _Name
    prompt: Given
    layers: Annotated[list[int], Meta(min_length=1, max_length=256)]
    pooling: Annotated[list[Literal["mean", "max", "last_token", "abs_max"]], Meta(min_length=1, max_length=4)]
    tokens: bool | None = None
    normalize: bool | None = None


class SemanticEmbedFields(Struct, frozen=True):
    """The honoured parameters of ``semantic_embed``."""

    model: _Name
    prompt: Given
    representation: Literal["symmetric", "document", "query"]
    compress_to_size: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    normalize: bool | None = None


class BatchSemanticEmbedFields(Struct, frozen=True):
    """The honoured parameters of ``batch_semantic_embed``."""

    model: _Name
    prompts: Annotated[list[Given], Meta(min_length=1, max_length=MAX_PROMPTS)]
    representation: Literal["symmetric", "document", "query"]
    compress_to_size: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    normalize: bool | None = None


class TokenizeFields(Struct, frozen=True):
    """The honoured parameters of ``tokenize``."""

    model: _Name
    prompt: str
    tokens: bool | None = None
    token_ids: bool | None = None


class DetokenizeFields(Struct, frozen=True):
    """The honoured parameters of ``detokenize``."""

    model: _Name
    token_ids: Annotated[TokenIds, Meta(min_length=1)]


@dataclass(frozen=True)
class CompleteRequest:
    """A body that was read. Of ``tries`` answers the ``n`` surest are given; ``log_probs`` None: they are not told."""

    model: str
    items: Items
    params: frames.Params
    n: int
    tries: int
    max_tokens: int | None
    echo: bool
    log_probs: int | None
    tokens: bool
    raw: bool
    stream: bool
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class ScoredRequest:
    """A text whose likelihood behind a prompt is asked for, and what is to be told of it."""

    model: str
    items: Items
    target: str
    ignored: tuple[str, ...]
    granularity: PromptGranularity | None = None
    each_token: bool = False
    postprocessing: str = "none"
    normalize: bool = False


@dataclass(frozen=True)
class EmbedRequest:
    """Prompts that are to be vectors. ``pooling`` is what the model must do by itself; empty: whatever it does."""

    model: str
    prompts: tuple[Items, ...]
    places: tuple[str, ...]
    ignored: tuple[str, ...]
    dimensions: int | None = None
    pooling: str = ""
    layer: int = -1
    tokens: bool = False


@dataclass(frozen=True)
class TokensRequest:
    """A text or token ids, and what is to be told of them."""

    model: str
    ignored: tuple[str, ...]
    text: str = ""
    token_ids: tuple[int, ...] = ()
    shown: frozenset[str] = field(default_factory=frozenset)


def parse_complete(body: bytes, limits: Limits) -> CompleteRequest:
    """Read a body of ``complete``. Raises ``bad_request``, ``unsupported_field`` or ``not_supported`` with the place.

    Without a temperature the likeliest token is taken, unless ``top_k`` or ``top_p`` ask for chance.
    """
    ignored = _sorted(COMPLETE, body)
    given = decode(body, CompleteFields)
    n = given.n or 1
    tries = n if given.best_of is None else given.best_of
    if tries < n:
        raise bad("best_of", "it is at least n")
    if tries > n and given.stream:
        raise bad("best_of", "which answers are best is known at their end: ask without stream")
    if given.maximum_tokens == 0 and not given.echo:
        raise bad("maximum_tokens", "0 goes with echo: there would be no answer at all")
    chance = (given.top_k or 0) > 1 or bool(given.top_p)
    pieces = bool(given.tokens) or tries > n
    told = given.log_probs if given.log_probs is not None else 0 if pieces else None
    scored = told if told is not None else 0 if given.maximum_tokens == 0 else None
    params: dict[str, Any] = dict(limits.default_params)
    params |= {"temperature": given.temperature or (1.0 if chance else 0.0)}
    params |= {"top_k": given.top_k} if given.top_k else {}
    params |= {"top_p": given.top_p} if given.top_p else {}
    params |= {"presence_penalty": given.presence_penalty} if given.presence_penalty else {}
    params |= {"frequency_penalty": given.frequency_penalty} if given.frequency_penalty else {}
    return CompleteRequest(
        model=given.model,
        items=items_of("prompt", given.prompt),
        params=frames.Params(
            stop=stop_strings("stop_sequences", given.stop_sequences or (), limits),
            logit_bias=given.logit_bias or {},
            top_logprobs=told,
            prompt_logprobs=scored if given.echo else None,
            **params,
        ),
        n=n,
        tries=tries,
        max_tokens=given.maximum_tokens,
        echo=bool(given.echo),
        log_probs=given.log_probs,
        tokens=bool(given.tokens),
        raw=bool(given.raw_completion),
        stream=bool(given.stream),
        ignored=ignored,
    )


def parse_evaluate(body: bytes, _limits: Limits) -> ScoredRequest:
    """Read a body of ``evaluate``. Raises like :func:`parse_complete`."""
    ignored = _sorted(EVALUATE, body)
    given = decode(body, EvaluateFields)
    return ScoredRequest(given.model, items_of("prompt", given.prompt), given.completion_expected, ignored)


def parse_explain(body: bytes, _limits: Limits) -> ScoredRequest:
    """Read a body of ``explain``. Raises like :func:`parse_complete`."""
    ignored = _sorted(EXPLAIN, body)
    given = decode(body, ExplainFields)
    cut = given.prompt_granularity
    granularity = PromptGranularity(cut) if isinstance(cut, str) else cut
    if granularity is not None and (granularity.type == "custom") != (granularity.delimiter is not None):
        raise bad("prompt_granularity", "a delimiter goes with custom, and custom with a delimiter")
    return ScoredRequest(
        model=given.model,
        items=items_of("prompt", given.prompt),
        target=given.target,
        ignored=ignored,
        granularity=granularity,
        each_token=given.target_granularity == "token",
        postprocessing=given.postprocessing or "none",
        normalize=bool(given.normalize),
    )


def parse_embed(body: bytes, _limits: Limits) -> EmbedRequest:
    """Read a body of ``embed``. Raises like :func:`parse_complete`."""
    ignored = _sorted(EMBED, body)
    given = decode(body, EmbedFields)
    if given.layers != [-1]:
        raise bad("layers", "a model's vectors are those of its last layer: [-1]")
    if len(given.pooling) != 1:
        raise bad("pooling", "a model pools in one way")
    prompts = (items_of("prompt", given.prompt),)
    return EmbedRequest(given.model, prompts, ("prompt",), ignored, None, given.pooling[0], -1, bool(given.tokens))


def parse_semantic_embed(body: bytes, _limits: Limits) -> EmbedRequest:
    """Read a body of ``semantic_embed``. Raises like :func:`parse_complete`."""
    ignored = _sorted(SEMANTIC_EMBED, body)
    given = decode(body, SemanticEmbedFields)
    prompts = (items_of("prompt", given.prompt),)
    ignored = _representation(given.representation, ignored)
    return EmbedRequest(given.model, prompts, ("prompt",), ignored, given.compress_to_size)


def parse_batch_semantic_embed(body: bytes, _limits: Limits) -> EmbedRequest:
    """Read a body of ``batch_semantic_embed``. Raises like :func:`parse_complete`."""
    ignored = _sorted(BATCH_SEMANTIC_EMBED, body)
    given = decode(body, BatchSemanticEmbedFields)
    places = tuple(f"prompts[{number}]" for number in range(len(given.prompts)))
    prompts = tuple(items_of(place, prompt) for place, prompt in zip(places, given.prompts, strict=True))
    ignored = _representation(given.representation, ignored)
    return EmbedRequest(given.model, prompts, places, ignored, given.compress_to_size)


def parse_tokenize(body: bytes, _limits: Limits) -> TokensRequest:
    """Read a body of ``tokenize``. Raises like :func:`parse_complete`."""
    ignored = _sorted(TOKENIZE, body)
    given = decode(body, TokenizeFields)
    wanted = {"tokens": given.tokens, "token_ids": given.token_ids}
    shown = frozenset(name for name, value in wanted.items() if value or value is None)
    return TokensRequest(given.model, ignored, text=given.prompt, shown=shown)


def parse_detokenize(body: bytes, _limits: Limits) -> TokensRequest:
    """Read a body of ``detokenize``. Raises like :func:`parse_complete`."""
    ignored = _sorted(DETOKENIZE, body)
    given = decode(body, DetokenizeFields)
    return TokensRequest(given.model, ignored, token_ids=tuple(given.token_ids))


def _sorted(tables: Tables, body: bytes) -> tuple[str, ...]:
    return tuple(sorted(tables.sort(decode(body, dict[str, Raw]))))


def _representation(wanted: str, ignored: Sequence[str]) -> tuple[str, ...]:
    """A model here makes one kind of vector, which compares with any other of it: with queries and documents too."""
    return tuple(ignored) if wanted == "symmetric" else tuple(sorted({*ignored, "representation"}))
