"""``POST /v1/responses``, streaming and not. Stateless: each request brings its whole conversation.

A stream ends with ``response.completed``, or ``response.incomplete`` when a limit cut it; one that fails tells of it in
``response.failed`` and then as every stream does. There is no ``[DONE]``.
"""

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from plugsky.core.errors import PlugskyError
from plugsky.engine.prompting.families.events import Event
from plugsky.server.answering import Answering, answering
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.choices import logprob
from plugsky.server.openai.errors import told
from plugsky.server.openai.response_fields import RESPONSES, ResponseFields, ResponseRequest, parse
from plugsky.server.openai.response_output import Output, flat
from plugsky.server.settlement import News


class Responses:
    """Answers a conversation with items: text, reasoning and calls of tools. Nothing is stored between requests."""

    fields = ResponseFields
    tables = RESPONSES

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with answering(self._gateway, exchange, "responses", parse) as taken:
            response = Response(taken)
            if not taken.request.stream:
                async for news in taken.answer.news():
                    response.take(news)
                await exchange.reply(200, msgspec.json.encode(response.shape()))
                return
            await exchange.open_stream()
            await exchange.write(response.events(response.begin()))
            try:
                async for news in taken.answer.news():
                    events = response.events(response.take(news))
                    if news.item.final is not None:
                        await exchange.end_stream(events)
                    elif events:
                        await exchange.write(events)
            except PlugskyError as error:
                await exchange.write(response.events([response.failure(error)]))
                raise


class Response:
    """One response, as far as it has come."""

    def __init__(self, taken: Answering[ResponseRequest]) -> None:
        self._taken = taken
        (self._said,) = taken.answer.said
        self._output = Output(taken.job)
        self._created_at = int(time.time())
        self._logprobs: list[dict[str, Any]] = []
        self._sent = 0

    def begin(self) -> list[dict[str, Any]]:
        """The first events of a stream."""
        shape = self.shape("in_progress")
        return [{"type": "response.created", "response": shape}, {"type": "response.in_progress", "response": shape}]

    def take(self, news: News) -> list[dict[str, Any]]:
        """Take in an item of the engine's answer; the events it makes."""
        item = news.item
        if self._taken.request.params.top_logprobs is not None:
            self._logprobs += map(logprob, item.logprobs)
        made = flat(self._say(event) for event in news.events)
        if item.final is not None:
            whole = self._said.end != "length"
            made += self._output.end(whole=whole)
            made.append({"type": f"response.{self._status}", "response": self.shape()})
        return made

    def failure(self, error: PlugskyError) -> dict[str, Any]:
        """The event of a response that failed."""
        shape = self.shape("failed") | {"error": {"code": "server_error", "message": told(error)}}
        return {"type": "response.failed", "response": shape}

    def events(self, made: Iterable[dict[str, Any]]) -> bytes:
        """Events as they are sent, numbered."""
        sent = []
        for event in made:
            body = msgspec.json.encode({**event, "sequence_number": self._sent})
            sent.append(b"event: " + event["type"].encode() + b"\ndata: " + body + b"\n\n")
            self._sent += 1
        return b"".join(sent)

    def shape(self, status: str = "") -> dict[str, Any]:
        """The response itself; ``status`` is for one that has not ended."""
        request = self._taken.request
        cut = self._said.end == "length"
        return {
            "id": f"resp_{self._taken.job}",
            "object": "response",
            "created_at": self._created_at,
            "status": status or self._status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": request.model,
            "output": self._output.items if not status else [],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None if status else self._usage(),
            **request.echo,
        }

    def _say(self, event: Event) -> list[dict[str, Any]]:
        known, self._logprobs = self._logprobs, []
        return self._output.say(event, known)

    @property
    def _status(self) -> str:
        return "incomplete" if self._said.end == "length" else "completed"

    def _usage(self) -> dict[str, Any]:
        used = self._taken.answer.usage
        return {
            "input_tokens": used.prompt_tokens,
            "input_tokens_details": {"cached_tokens": used.cached_tokens},
            "output_tokens": used.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
            "total_tokens": used.prompt_tokens + used.completion_tokens,
        }
