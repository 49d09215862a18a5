"""``POST /embed``, ``/semantic_embed`` and ``/batch_semantic_embed``: texts as vectors of length 1."""

from typing import Any

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.admission import engine_for
from plugsky.server.aleph_alpha.fields import (
    BatchSemanticEmbedFields,
    EmbedFields,
    EmbedRequest,
    SemanticEmbedFields,
    parse_batch_semantic_embed,
    parse_embed,
    parse_semantic_embed,
)
from plugsky.server.aleph_alpha.prompts import read, whole
from plugsky.server.aleph_alpha.tables import BATCH_SEMANTIC_EMBED, EMBED, SEMANTIC_EMBED
from plugsky.server.aleph_alpha.wording import spoken
from plugsky.server.answering import Received, received
from plugsky.server.computing import Computed, Inputs, compute
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.embeddings import check_dimensions, cut, floats
from plugsky.server.prompt import Prompt


class Embed:
    """Turns a prompt into the vector of a model's last layer, in Aleph Alpha's dialect."""

    fields = EmbedFields
    tables = EMBED

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        async with received(self._gateway, exchange, "aleph-alpha.embed", parse_embed) as taken:
            request = taken.request
            engine = await engine_for(self._gateway, taken.flight, taken.model, "embed")
            own = next((cap.partition(":")[2] for cap in engine.hello.caps if cap.startswith("pooling:")), "")
            if request.pooling != own:
                raise PlugskyError(
                    ErrorKind.NOT_SUPPORTED,
                    f"This model does not pool by {request.pooling}",
                    why=f"it was trained to pool by {own}" if own else "its vectors are made in a way of its own",
                    param="pooling",
                )
            computed = await _computed(self._gateway, taken, "aleph-alpha.embed")
            vector = floats(computed.finishes[0].embedding)
            tokens = await self._tokens(taken) if request.tokens else None
            shape = {"model_version": taken.model.id, "embeddings": {"layer_-1": {request.pooling: vector}}}
            body = {**shape, "tokens": tokens, "num_tokens_prompt_total": computed.usage.prompt_tokens}
        await exchange.reply(200, msgspec.json.encode(body))

    async def _tokens(self, taken: Received[EmbedRequest]) -> list[str]:
        prompt = await whole(self._gateway, taken, taken.request.prompts[0])
        prepared = await read(self._gateway, taken, msgspec.structs.replace(prompt, shown=True))
        return [piece.decode(errors="replace") for piece in prepared.pieces]


class SemanticEmbed:
    """Turns a prompt into the vector that its model was trained to make, in Aleph Alpha's dialect."""

    fields = SemanticEmbedFields
    tables = SEMANTIC_EMBED

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        endpoint = "aleph-alpha.semantic-embed"
        async with received(self._gateway, exchange, endpoint, parse_semantic_embed) as taken:
            computed = await _computed(self._gateway, taken, endpoint)
            (vector,) = _vectors(taken.request, computed)
        await exchange.reply(200, msgspec.json.encode({"embedding": vector, **_told(taken, computed)}))


class BatchSemanticEmbed:
    """Turns up to 100 prompts into vectors, in Aleph Alpha's dialect."""

    fields = BatchSemanticEmbedFields
    tables = BATCH_SEMANTIC_EMBED

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        endpoint = "aleph-alpha.semantic-embed"
        async with received(self._gateway, exchange, endpoint, parse_batch_semantic_embed) as taken:
            computed = await _computed(self._gateway, taken, endpoint)
            vectors = _vectors(taken.request, computed)
        await exchange.reply(200, msgspec.json.encode({"embeddings": vectors, **_told(taken, computed)}))


async def _computed(gateway: Gateway, taken: Received[EmbedRequest], endpoint: str) -> Computed:
    request = taken.request
    check_dimensions(taken.model, request.dimensions)
    prompts: list[Prompt] = [await whole(gateway, taken, items) for items in request.prompts]
    return await compute(gateway, taken, Inputs(endpoint, "embed", prompts, request.places))


def _vectors(request: EmbedRequest, computed: Computed) -> list[list[float]]:
    return [floats(cut(each.embedding, request.dimensions)) for each in computed.finishes]


def _told(taken: Received[EmbedRequest], computed: Computed) -> dict[str, Any]:
    return {"model_version": taken.model.id, "num_tokens_prompt_total": computed.usage.prompt_tokens}
