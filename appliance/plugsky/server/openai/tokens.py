"""``POST /tokenize``, ``/detokenize`` and ``/apply-template``: what a model reads. They cost nothing.

llama-server's clients find what they know in the answers, and vLLM's too.
"""

from typing import Any

import msgspec

from plugsky.core import frames
from plugsky.server.admission import weigh
from plugsky.server.answering import Received, received
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.fields import ChatFields
from plugsky.server.openai.token_fields import (
    APPLY_TEMPLATE,
    DETOKENIZE,
    TOKENIZE,
    DetokenizeFields,
    TokenizeFields,
    TokensRequest,
    parse_detokenize,
    parse_template,
    parse_tokenize,
)


class Tokenize:
    """Tells the tokens of a text, or of a chat, with what each says where that is wanted."""

    fields = TokenizeFields
    tables = TOKENIZE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with received(self._gateway, exchange, "tokens", parse_tokenize) as taken:
            prepared = await _weighed(self._gateway, taken)
            names = [piece.decode(errors="replace") for piece in prepared.pieces]
            shape: dict[str, Any] = {
                "tokens": prepared.tokens,
                "count": len(prepared.tokens),
                "max_model_len": taken.model.context,
            }
            if taken.request.pieces:
                told = zip(prepared.tokens, prepared.pieces, strict=True)
                shape["tokens"] = [{"id": token, "piece": _told(piece)} for token, piece in told]
            if taken.request.names:
                shape["token_strs"] = names
        await exchange.reply(200, msgspec.json.encode(shape))


class Detokenize:
    """Tells the text of token ids. What is no UTF-8 becomes U+FFFD."""

    fields = DetokenizeFields
    tables = DETOKENIZE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with received(self._gateway, exchange, "tokens", parse_detokenize) as taken:
            prepared = await _weighed(self._gateway, taken)
        text = b"".join(prepared.pieces).decode(errors="replace")
        await exchange.reply(200, msgspec.json.encode({"content": text, "prompt": text}))


class ApplyTemplate:
    """Tells a chat as its model reads it, rendered by the model's own template."""

    fields = ChatFields
    tables = APPLY_TEMPLATE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with received(self._gateway, exchange, "tokens", parse_template) as taken:
            prepared = await _weighed(self._gateway, taken)
        await exchange.reply(200, msgspec.json.encode({"prompt": prepared.text}))


async def _weighed(gateway: Gateway, taken: Received[TokensRequest]) -> frames.Prepared:
    return await weigh(gateway, taken.flight, taken.model, taken.model.mode, taken.request.prompt)


def _told(piece: bytes) -> str | list[int]:
    """A piece as llama-server tells it: its bytes, where they are no text."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
