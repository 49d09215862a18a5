"""Ollama's endpoints but those of vectors: ``/api/chat``, ``generate``, ``tags``, ``show``, ``ps``, ``version``."""

from datetime import UTC, datetime
from importlib import metadata
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.admission import authenticate, resolve
from plugsky.server.answering import answering
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.exchange import JSON_HEADERS, Exchange, HeaderList
from plugsky.server.ollama.answers import Kind, Lines
from plugsky.server.ollama.fields import CHAT, GENERATE, ChatFields, GenerateFields, parse_chat, parse_generate
from plugsky.server.ollama.wording import WORDING
from plugsky.server.request_json import decode

_STREAM_HEADERS: Final[HeaderList] = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
_CAPABILITIES: Final = {"generate": ["completion"], "embed": ["embedding"], "rerank": []}


class Chat:
    """Answers a chat in Ollama's dialect, a JSON line for each piece."""

    fields = ChatFields
    tables = CHAT

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        await _answer(self._gateway, exchange, "chat")


class Generate:
    """Completes a prompt in Ollama's dialect, a JSON line for each piece."""

    fields = GenerateFields
    tables = GENERATE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        await _answer(self._gateway, exchange, "generate")


async def _answer(gateway: Gateway, exchange: Exchange, kind: Kind) -> None:
    exchange.wording = WORDING
    read = parse_chat if kind == "chat" else parse_generate
    async with answering(gateway, exchange, f"ollama.{kind}", read) as taken:
        lines = Lines(kind, taken, gateway.clock)
        if not taken.request.stream:
            async for news in taken.answer.news():
                lines.take(news)
            await exchange.reply(200, msgspec.json.encode(lines.whole()))
            return
        await exchange.open_stream(_STREAM_HEADERS, keep_alive=b"")
        async for news in taken.answer.news():
            data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines.take(news))
            if news.item.final is not None:
                await exchange.end_stream(data + msgspec.json.encode(lines.last()) + b"\n")
            elif data:
                await exchange.write(data)


class Tags:
    """The models that a key may use, as Ollama lists them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        principal = await authenticate(self._gateway, exchange)
        found = [_listed(model) for model in self._gateway.models.values() if principal.may_use(model.id)]
        await exchange.reply(200, msgspec.json.encode({"models": found}))


class Running:
    """The models that are loaded now, of those that a key may use."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        principal = await authenticate(self._gateway, exchange)
        loaded = self._gateway.engines.connected()
        found = [
            _listed(model) | {"context_length": self._gateway.engines.context_of(model)}
            for model in self._gateway.models.values()
            if model.id in loaded and principal.may_use(model.id)
        ]
        await exchange.reply(200, msgspec.json.encode({"models": found}))


class ShowFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model is asked for."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    verbose: bool | None = None


class Show:
    """What is known of one model."""

    fields = ShowFields

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        gateway = self._gateway
        principal = await authenticate(gateway, exchange)
        asked = decode(await exchange.body(gateway.policy.limits.max_body_bytes), ShowFields)
        if asked.verbose:
            raise PlugskyError(
                ErrorKind.UNSUPPORTED_FIELD,
                "verbose is not supported here with this value",
                why="a model's vocabulary is not told",
                param="verbose",
            )
        model = (await resolve(gateway, principal, asked.model)).model
        shape = {
            "license": model.licence,
            "modified_at": _time(model),
            "details": {"format": "gguf"},
            "model_info": {"context_length": gateway.engines.context_of(model), "digest": model.digest},
            "capabilities": _CAPABILITIES.get(model.mode, []),
        }
        await exchange.reply(200, msgspec.json.encode(shape))


class Version:
    """Which version answers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        await authenticate(self._gateway, exchange)
        await exchange.reply(200, msgspec.json.encode({"version": metadata.version("plugsky")}), JSON_HEADERS)


def _listed(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": _time(model),
        "digest": model.digest,
        "details": {"format": "gguf"},
    }


def _time(model: ServedModel) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
