"""``POST /v1/embeddings``: a vector of length 1 for each input, as numbers or as base64 of little-endian float32.

Guarantees: vectors come in the order of the inputs; a vector is cut to ``dimensions`` only where the model's catalogue
entry says that it was trained to be cut to that many, and has length 1 again afterwards.
"""

import asyncio
import base64
from typing import Any

import msgspec
import numpy as np

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.answering import received
from plugsky.server.computing import Inputs, compute
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad
from plugsky.server.openai.deployment import reader
from plugsky.server.openai.embedding_fields import EMBEDDINGS, EmbeddingFields, parse


class Embeddings:
    """Turns texts or token ids into vectors, up to 2048 in one request."""

    fields = EmbeddingFields
    tables = EMBEDDINGS

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with received(self._gateway, exchange, "embeddings", reader(exchange, parse)) as taken:
            request = taken.request
            check_dimensions(taken.model, request.dimensions)
            inputs = Inputs("embeddings", "embed", request.prompts, request.places, request.end_user)
            computed = await compute(self._gateway, taken, inputs)
            data = []
            for number, finish in enumerate(computed.finishes):
                vector = cut(finish.embedding, request.dimensions)
                shape: str | list[float] = base64.b64encode(vector).decode() if request.base64 else floats(vector)
                one: dict[str, Any] = {"object": "embedding", "index": number, "embedding": shape}
                data.append(msgspec.Raw(msgspec.json.encode(one)))
                await asyncio.sleep(0)  # thousands of vectors take a while: the other requests go on meanwhile
            tokens = computed.usage.prompt_tokens
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            body = {"object": "list", "data": data, "model": request.model, "usage": usage}
            await exchange.reply(200, msgspec.json.encode(body))


def check_dimensions(model: ServedModel, wanted: int | None) -> None:
    """Raise ``bad_request`` for a length of vectors that the model was not trained to be cut to."""
    if wanted is not None and model.mode == "embed" and wanted not in model.dimensions:
        known = ", ".join(map(str, model.dimensions))
        raise bad(
            "dimensions",
            f"this model was trained for {known}" if known else "this model's vectors have one length",
        )


def cut(vector: bytes, dimensions: int | None) -> bytes:
    """The first ``dimensions`` numbers of a vector, scaled to length 1. Raises ``internal`` when that cannot be."""
    if dimensions is None:
        return vector
    head = np.frombuffer(vector, "<f4")[:dimensions]
    length = np.linalg.norm(head.astype(np.float64))
    if len(head) < dimensions or not length > 0:
        raise PlugskyError(ErrorKind.INTERNAL, "The model's vector cannot be cut to that length", param="dimensions")
    shorter: bytes = (head / length).astype("<f4").tobytes()
    return shorter


def floats(vector: bytes) -> list[float]:
    """The numbers of a vector."""
    numbers: list[float] = np.frombuffer(vector, "<f4").tolist()
    return numbers
