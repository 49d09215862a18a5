"""What Aleph Alpha's clients ask besides: the version, the models, tokens of a text and texts of tokens."""

from typing import Any, Final

import msgspec

from plugsky.server.admission import authenticate
from plugsky.server.aleph_alpha.fields import DetokenizeFields, TokenizeFields, parse_detokenize, parse_tokenize
from plugsky.server.aleph_alpha.prompts import read
from plugsky.server.aleph_alpha.tables import DETOKENIZE, TOKENIZE
from plugsky.server.aleph_alpha.wording import spoken
from plugsky.server.answering import received
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.prompt import Prompt

VERSION: Final = "1.19.0"
"""The version of that vendor's API whose words are spoken here."""


class Version:
    """The version of Aleph Alpha's API that is spoken here."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        await authenticate(self._gateway, exchange)
        await exchange.reply(200, VERSION.encode(), [(b"content-type", b"text/plain; charset=utf-8")])


class Models:
    """The models that a key may use, as Aleph Alpha lists them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        principal = await authenticate(self._gateway, exchange)
        shapes: list[dict[str, Any]] = [
            {
                "name": model.id,
                "description": f"{model.mode}, {model.licence}",
                "max_context_size": self._gateway.engines.context_of(model),
                "hostings": [],
                "image_support": False,
                "qa_support": False,
                "summarization_support": False,
                "embedding_types": ["symmetric"] if model.mode == "embed" else [],
                "maximum_completion_tokens": self._gateway.engines.context_of(model) if model.mode == "generate" else 0,
                "aligned": False,
            }
            for model in self._gateway.models.values()
            if principal.may_use(model.id)
        ]
        await exchange.reply(200, msgspec.json.encode(shapes))


class Tokenize:
    """Tells the tokens of a text, in Aleph Alpha's dialect."""

    fields = TokenizeFields
    tables = TOKENIZE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        async with received(self._gateway, exchange, "tokens", parse_tokenize) as taken:
            request = taken.request
            prepared = await read(self._gateway, taken, Prompt(text=request.text, framed=False, shown=True))
        names = [piece.decode(errors="replace") for piece in prepared.pieces]
        known: dict[str, Any] = {"tokens": names, "token_ids": prepared.tokens}
        await exchange.reply(200, msgspec.json.encode({name: known[name] for name in sorted(request.shown)}))


class Detokenize:
    """Tells the text of token ids, in Aleph Alpha's dialect. What is no UTF-8 becomes U+FFFD."""

    fields = DetokenizeFields
    tables = DETOKENIZE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        async with received(self._gateway, exchange, "tokens", parse_detokenize) as taken:
            prepared = await read(self._gateway, taken, Prompt(tokens=taken.request.token_ids, shown=True))
        text = b"".join(prepared.pieces).decode(errors="replace")
        await exchange.reply(200, msgspec.json.encode({"result": text}))
