"""``POST /v1/messages``, streaming and not, and ``POST /v1/messages/count_tokens``.

The headers of a stream go out when the engine has accepted the request; what fails later is an ``error`` event in the
stream. Usage is counted and settled before the client sees the end. To count the tokens of a prompt costs nothing.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from plugsky.server.admission import weigh
from plugsky.server.answering import answering, received
from plugsky.server.anthropic.errors import AnthropicWording
from plugsky.server.anthropic.fields import CountTokensFields, MessagesFields, parse, parse_count
from plugsky.server.anthropic.shapes import Message, Shape
from plugsky.server.anthropic.tables import COUNT_TOKENS, MESSAGES
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.settlement import Answer

_BETA: Final = b"anthropic-beta"


class Messages:
    """Answers a conversation as Anthropic's API does, with tools, images and thinking, whole or as a stream."""

    fields = MessagesFields
    tables = MESSAGES

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        _speak(exchange)
        async with answering(self._gateway, exchange, "anthropic.messages", parse) as taken:
            message = Message(taken.job, taken.request, taken.prepared, taken.answer.said[0])
            if taken.request.stream:
                await _stream(exchange, taken.answer, message)
            else:
                await _whole(exchange, taken.answer, message)


class CountTokens:
    """Counts the tokens of a conversation, and runs and bills nothing."""

    fields = CountTokensFields
    tables = COUNT_TOKENS

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        _speak(exchange)
        async with received(self._gateway, exchange, "anthropic.tokens", parse_count) as taken:
            prepared = await weigh(self._gateway, taken.flight, taken.model, "generate", taken.request.prompt)
        await exchange.reply(200, msgspec.json.encode({"input_tokens": len(prepared.tokens)}))


def _speak(exchange: Exchange) -> None:
    """Answer in Anthropic's words from here on, and say that no beta is known."""
    exchange.wording = AnthropicWording(exchange.request_id)
    exchange.reply_headers.append((b"request-id", exchange.request_id.encode()))
    if any(name == _BETA for name, _ in exchange.raw_headers):
        exchange.reply_headers.append((b"x-plugsky-ignored", _BETA))


async def _whole(exchange: Exchange, answer: Answer, message: Message) -> None:
    async for news in answer.news():
        message.feed(news)
    await exchange.reply(200, msgspec.json.encode(message.whole(answer.usage)))


async def _stream(exchange: Exchange, answer: Answer, message: Message) -> None:
    await exchange.open_stream()
    await exchange.write(_events([{"type": "message_start", "message": message.start()}, {"type": "ping"}]))
    async for news in answer.news():
        events = message.feed(news)
        if news.item.final is not None:
            await exchange.end_stream(_events([*events, *message.ended(answer.usage)]))
        elif events:
            await exchange.write(_events(events))


def _events(shapes: Iterable[Shape]) -> bytes:
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (shape["type"].encode(), msgspec.json.encode(shape)) for shape in shapes
    )
