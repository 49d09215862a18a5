"""``POST /v1/completions``, streaming and not: what a model writes behind a prompt, or between it and a suffix.

The choices of the first prompt come first. Of ``best_of`` answers to a prompt, the ``n`` with the highest mean
log-probability are given, the surest first; all are computed and counted. A stream goes as a chat's does.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from plugsky.server.answering import answered, received
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.completion_choice import Choice, Part
from plugsky.server.openai.completion_fields import COMPLETIONS, CompletionFields, CompletionRequest, parse
from plugsky.server.openai.deployment import reader
from plugsky.server.openai.shapes import DONE, usage
from plugsky.server.settlement import Answer, Ask


class Completions:
    """Writes on from a prompt, with echo, suffix, best_of and log-probabilities, whole or as a stream."""

    fields = CompletionFields
    tables = COMPLETIONS

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with received(self._gateway, exchange, "completions", reader(exchange, parse)) as taken:
            request = taken.request
            ask = Ask(
                endpoint="completions",
                requested_model=request.model,
                prompts=request.prompts,
                params=request.params,
                n=request.tries,
                max_tokens=request.max_tokens,
                end_user=request.end_user,
                request_sha256=taken.sha256,
            )
            async with answered(self._gateway, taken, ask) as (answer, prepared):
                choices = [
                    Choice(prompt, each, echo=request.echo, logprobs=request.logprobs)
                    for prompt, each in zip(request.prompts, prepared, strict=True)
                    for _ in range(request.tries)
                ]
                shapes = Shapes(taken.flight.job, request, answer, choices)
                if request.stream:
                    await _stream(exchange, answer, shapes)
                else:
                    await _whole(exchange, answer, shapes)


class Shapes:
    """The JSON of one answer."""

    def __init__(self, job: str, request: CompletionRequest, answer: Answer, choices: Sequence[Choice]) -> None:
        self.choices = choices
        self._request = request
        self._answer = answer
        self._common: dict[str, Any] = {
            "id": f"cmpl-{job}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": answer.fingerprint,
        }

    def completion(self) -> bytes:
        """The whole answer: the best of each prompt."""
        best: list[Choice] = []
        for start in range(0, len(self.choices), self._request.tries):
            tried = self.choices[start : start + self._request.tries]
            if self._request.tries > self._request.n:
                tried = sorted(tried, key=lambda choice: -choice.sureness)[: self._request.n]
            best += tried
        choices = [self._choice(number, each.whole, each.finish_reason) for number, each in enumerate(best)]
        return msgspec.json.encode({**self._common, "choices": choices, "usage": usage(self._answer.usage)})

    def news(self, number: int, part: Part) -> bytes:
        """The event of a part of choice ``number``; none for a part that says nothing."""
        reason = self.choices[number].finish_reason
        if not (part.text or part.tokens or reason):
            return b""
        return self._event([self._choice(number, part, reason)], None)

    def used(self) -> bytes:
        """The event with the usage, where it was asked for."""
        return self._event([], usage(self._answer.usage)) if self._request.include_usage else b""

    def _choice(self, number: int, part: Part, reason: str) -> dict[str, Any]:
        logprobs = part.logprobs() if self._request.logprobs else None
        return {"index": number, "text": part.text, "logprobs": logprobs, "finish_reason": reason or None}

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None) -> bytes:
        shape = {**self._common, "choices": choices}
        if self._request.include_usage:
            shape["usage"] = used
        return b"data: " + msgspec.json.encode(shape) + b"\n\n"


async def _whole(exchange: Exchange, answer: Answer, shapes: Shapes) -> None:
    async for number, item, _ in answer.news():
        shapes.choices[number].feed(item)
    await exchange.reply(200, shapes.completion())


async def _stream(exchange: Exchange, answer: Answer, shapes: Shapes) -> None:
    await exchange.open_stream()
    async for number, item, _ in answer.news():
        event = shapes.news(number, shapes.choices[number].feed(item))
        if None not in answer.finishes:
            await exchange.end_stream(event + shapes.used() + DONE)
        elif event:
            await exchange.write(event)
