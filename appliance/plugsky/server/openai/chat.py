"""``POST /v1/chat/completions``, streaming and not.

The headers of a stream go out when the engine has accepted the request; what fails later is an event in the stream.
The first event carries the role, the last with a choice its ``finish_reason``; one with the usage and no choice follows
only when ``stream_options.include_usage`` asked for it; ``[DONE]`` ends a stream that ended well. Usage is counted and
settled whether it was asked for or not, before the client sees the end.
"""

from plugsky.server.answering import answering
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.choices import Choice
from plugsky.server.openai.deployment import reader
from plugsky.server.openai.fields import ChatFields, parse
from plugsky.server.openai.shapes import DONE, Shapes
from plugsky.server.openai.tables import CHAT
from plugsky.server.settlement import Answer


class ChatCompletions:
    """Answers a chat, with tools, schemas, reasoning and several choices, whole or as a stream."""

    fields = ChatFields
    tables = CHAT

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with answering(self._gateway, exchange, "chat.completions", reader(exchange, parse)) as taken:
            request = taken.request
            logprobs = request.params.top_logprobs is not None
            choices = [Choice(said, logprobs=logprobs) for said in taken.answer.said]
            shapes = Shapes(taken.job, request, taken.answer, choices)
            if request.stream:
                await _stream(exchange, taken.answer, shapes)
            else:
                await _whole(exchange, taken.answer, shapes)


async def _whole(exchange: Exchange, answer: Answer, shapes: Shapes) -> None:
    async for number, item, events in answer.news():
        shapes.choices[number].feed(item, events)
    await exchange.reply(200, shapes.completion())


async def _stream(exchange: Exchange, answer: Answer, shapes: Shapes) -> None:
    await exchange.open_stream()
    await exchange.write(shapes.first())
    async for news in answer.news():
        events = shapes.news(news)
        if None not in answer.finishes:
            await exchange.end_stream(events + shapes.used() + DONE)
        elif events:
            await exchange.write(events)
