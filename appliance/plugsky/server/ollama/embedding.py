"""``POST /api/embed`` and the older ``/api/embeddings``: vectors in Ollama's words.

An input longer than the model's context is refused: nothing is cut in silence, so ``truncate`` may only be false.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from plugsky.core.policy import Limits
from plugsky.server.answering import received
from plugsky.server.computing import Computed, Inputs, compute
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad
from plugsky.server.ollama.fields import OPTIONS
from plugsky.server.ollama.wording import WORDING
from plugsky.server.openai.embedding_fields import MAX_INPUTS
from plugsky.server.openai.embeddings import check_dimensions, cut, floats
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Refused, Tables

_SITE: Final = {"keep_alive": "the site decides how long a model stays loaded"}
_NO_EFFECT: Final = dict.fromkeys(OPTIONS.honoured | OPTIONS.extensions | set(OPTIONS.ignored), "nothing is drawn")
EMBED: Final = Tables(
    frozenset({"model", "input", "dimensions", "options"}),
    _SITE,
    {"truncate": Refused("an input is refused when it is too long, and never cut", (False,))},
)
EMBEDDINGS: Final = Tables(frozenset({"model", "prompt", "options"}), _SITE, {})
_EMBED_OPTIONS: Final = Tables(frozenset(), _NO_EFFECT, OPTIONS.refused)
_Model = Annotated[str, Meta(min_length=1, max_length=256)]
_Text = Annotated[str, Meta(min_length=1)]


class EmbedFields(msgspec.Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    model: _Model
    input: str | list[str]
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    options: dict[str, Raw] | None = None


class EmbeddingsFields(msgspec.Struct, frozen=True):
    """Those of the older endpoint: one text."""

    model: _Model
    prompt: _Text
    options: dict[str, Raw] | None = None


@dataclass(frozen=True)
class EmbedRequest:
    """A body that was read."""

    model: str
    texts: tuple[str, ...]
    places: tuple[str, ...]
    dimensions: int | None
    ignored: tuple[str, ...]


def parse_embed(body: bytes, _limits: Limits) -> EmbedRequest:
    """Read the body of ``/api/embed``. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = EMBED.sort(decode(body, dict[str, Raw]))
    fields = decode(body, EmbedFields)
    one = isinstance(fields.input, str)
    texts = (fields.input,) if isinstance(fields.input, str) else tuple(fields.input)
    if not 0 < len(texts) <= MAX_INPUTS:
        raise bad("input", f"there are {len(texts)} inputs; 1 to {MAX_INPUTS} are possible")
    places = tuple("input" if one else f"input[{number}]" for number in range(len(texts)))
    for place, text in zip(places, texts, strict=True):
        if not text:
            raise bad(place, "it is empty")
    return EmbedRequest(fields.model, texts, places, fields.dimensions, _all(ignored, fields.options))


def parse_embeddings(body: bytes, _limits: Limits) -> EmbedRequest:
    """Read the body of ``/api/embeddings``. Raises like :func:`parse_embed`."""
    ignored = EMBEDDINGS.sort(decode(body, dict[str, Raw]))
    fields = decode(body, EmbeddingsFields)
    return EmbedRequest(fields.model, (fields.prompt,), ("prompt",), None, _all(ignored, fields.options))


def _all(ignored: set[str], options: dict[str, Raw] | None) -> tuple[str, ...]:
    return tuple(sorted(ignored | {f"options.{name}" for name in _EMBED_OPTIONS.sort(options or {})}))


class Embed:
    """Turns texts into vectors of length 1, in Ollama's dialect."""

    fields = EmbedFields
    tables = EMBED

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        began_us = self._gateway.clock.monotonic_us()
        async with received(self._gateway, exchange, "ollama.embed", parse_embed) as taken:
            request = taken.request
            check_dimensions(taken.model, request.dimensions)
            computed = await compute(self._gateway, taken, _inputs(request))
            shape: dict[str, Any] = {
                "model": request.model,
                "embeddings": [floats(cut(finish.embedding, request.dimensions)) for finish in computed.finishes],
                "total_duration": (self._gateway.clock.monotonic_us() - began_us) * 1000,
                "load_duration": 0,
                "prompt_eval_count": computed.usage.prompt_tokens,
            }
            await exchange.reply(200, msgspec.json.encode(shape))


class OneEmbedding:
    """Turns a text into a vector of length 1, as older programs ask for it."""

    fields = EmbeddingsFields
    tables = EMBEDDINGS

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        async with received(self._gateway, exchange, "ollama.embed", parse_embeddings) as taken:
            computed: Computed = await compute(self._gateway, taken, _inputs(taken.request))
            (finish,) = computed.finishes
            await exchange.reply(200, msgspec.json.encode({"embedding": floats(finish.embedding)}))


def _inputs(request: EmbedRequest) -> Inputs:
    return Inputs("ollama.embed", "embed", tuple(Prompt(text=text) for text in request.texts), request.places)
