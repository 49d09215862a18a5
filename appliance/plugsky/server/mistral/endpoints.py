"""Mistral's endpoints: chat, fill-in-the-middle, embeddings, models."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from plugsky.server.admission import authenticate, resolve
from plugsky.server.answering import answered, answering, received
from plugsky.server.computing import Inputs, compute
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.exchange import Exchange
from plugsky.server.mistral.answers import ChatShapes, FimShapes, usage
from plugsky.server.mistral.fields import (
    ChatFields,
    EmbeddingFields,
    FimFields,
    parse_chat,
    parse_embeddings,
    parse_fim,
)
from plugsky.server.mistral.tables import CHAT, EMBEDDINGS, FIM
from plugsky.server.mistral.wording import WORDING
from plugsky.server.openai.choices import Choice
from plugsky.server.openai.embeddings import check_dimensions, cut, floats
from plugsky.server.openai.shapes import DONE
from plugsky.server.settlement import Ask

Handle = Callable[[Exchange], Awaitable[None]]


class Chat:
    """Answers a chat in Mistral's dialect, whole or as a stream."""

    fields = ChatFields
    tables = CHAT

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        async with answering(self._gateway, exchange, "mistral.chat", parse_chat) as taken:
            request, answer = taken.request, taken.answer
            logprobs = request.params.top_logprobs is not None
            choices = [Choice(said, logprobs=logprobs) for said in answer.said]
            shapes = ChatShapes(taken.job, request.model, answer, choices, logprobs=logprobs)
            if not request.stream:
                async for number, item, said in answer.news():
                    choices[number].feed(item, said)
                await exchange.reply(200, shapes.whole())
                return
            await exchange.open_stream()
            await exchange.write(shapes.first())
            async for news in answer.news():
                events = shapes.news(news)
                if None not in answer.finishes:
                    await exchange.end_stream(events + DONE)
                elif events:
                    await exchange.write(events)


class Fim:
    """Writes what stands between a prompt and a suffix, in Mistral's dialect."""

    fields = FimFields
    tables = FIM

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        async with received(self._gateway, exchange, "mistral.fim", parse_fim) as taken:
            request = taken.request
            ask = Ask(
                endpoint="mistral.fim",
                requested_model=request.model,
                prompts=request.prompts,
                params=request.params,
                max_tokens=request.max_tokens,
                default_max_tokens=taken.default_max_tokens,
                request_sha256=taken.sha256,
            )
            async with answered(self._gateway, taken, ask) as (answer, _):
                shapes = FimShapes(taken.flight.job, request.model, answer)
                if request.stream:
                    await exchange.open_stream()
                async for _, item, _ in answer.news():
                    event = shapes.news(item)
                    if not request.stream:
                        continue
                    if None not in answer.finishes:
                        await exchange.end_stream(event + DONE)
                    elif event:
                        await exchange.write(event)
                if not request.stream:
                    await exchange.reply(200, shapes.whole())


class Embeddings:
    """Turns texts into vectors of length 1, in Mistral's dialect."""

    fields = EmbeddingFields
    tables = EMBEDDINGS

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        async with received(self._gateway, exchange, "mistral.embeddings", parse_embeddings) as taken:
            request = taken.request
            check_dimensions(taken.model, request.dimensions)
            computed = await compute(
                self._gateway, taken, Inputs("mistral.embeddings", "embed", request.prompts, request.places)
            )
            data = [
                {"object": "embedding", "index": number, "embedding": floats(cut(each.embedding, request.dimensions))}
                for number, each in enumerate(computed.finishes)
            ]
            shape = {"id": taken.flight.job, "object": "list", "model": request.model, "data": data}
            await exchange.reply(200, msgspec.json.encode({**shape, "usage": usage(computed.usage)}))


class Models:
    """The models that a key may use, as Mistral lists them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        principal = await authenticate(self._gateway, exchange)
        context_of = self._gateway.engines.context_of
        found = [
            _card(model, context_of(model)) for model in self._gateway.models.values() if principal.may_use(model.id)
        ]
        await exchange.reply(200, msgspec.json.encode({"object": "list", "data": found}))


class Model:
    """One model, by its id or an alias."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        exchange.wording = WORDING
        principal = await authenticate(self._gateway, exchange)
        model = (await resolve(self._gateway, principal, exchange.path_params["model"])).model
        await exchange.reply(200, msgspec.json.encode(_card(model, self._gateway.engines.context_of(model))))


def _card(model: ServedModel, context: int) -> dict[str, Any]:
    chats = model.mode == "generate"
    return {
        "id": model.id,
        "object": "model",
        "type": "base",
        "created": model.created,
        "owned_by": "plugsky",
        "max_context_length": context,
        "capabilities": {"completion_chat": chats, "function_calling": chats},
    }
