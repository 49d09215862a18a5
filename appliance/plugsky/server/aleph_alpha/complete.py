"""``POST /complete``: what a model writes behind a prompt, whole or as a stream.

A stream tells the stretches of each answer, its end, and at last what was counted. It holds no comments: this vendor's
clients take none.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from plugsky.server.aleph_alpha.fields import CompleteFields, CompleteRequest, parse_complete
from plugsky.server.aleph_alpha.prompts import whole
from plugsky.server.aleph_alpha.tables import COMPLETE
from plugsky.server.aleph_alpha.wording import spoken
from plugsky.server.answering import answered, received
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.completion_choice import Choice, Part
from plugsky.server.settlement import Answer, Ask


class Complete:
    """Writes on from a prompt, in Aleph Alpha's dialect, whole or as a stream."""

    fields = CompleteFields
    tables = COMPLETE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        async with received(self._gateway, exchange, "aleph-alpha.complete", parse_complete) as taken:
            request = taken.request
            prompt = msgspec.structs.replace(await whole(self._gateway, taken, request.items), shown=request.echo)
            ask = Ask(
                endpoint="aleph-alpha.complete",
                requested_model=request.model,
                prompts=(prompt,),
                params=request.params,
                n=request.tries,
                max_tokens=request.max_tokens,
                default_max_tokens=taken.default_max_tokens,
                request_sha256=taken.sha256,
            )
            async with answered(self._gateway, taken, ask) as (answer, (prepared,)):
                tells = request.params.top_logprobs is not None
                choices = [Choice(prompt, prepared, echo=request.echo, logprobs=tells) for _ in range(request.tries)]
                shapes = _Shapes(request, answer, choices, taken.model.id)
                await (_stream if request.stream else _reply)(exchange, answer, shapes)


class _Shapes:
    """The JSON of one answer."""

    def __init__(self, request: CompleteRequest, answer: Answer, choices: Sequence[Choice], model: str) -> None:
        self.choices = choices
        self._request = request
        self._answer = answer
        self._model = model
        self._stopped: dict[int, bool] = {}

    def ended(self, number: int, stop: str) -> None:
        """Note that choice ``number`` ended, with a text that was to end it or without."""
        self._stopped[number] = bool(stop)

    def completion(self) -> bytes:
        """The whole answer: the best of what was tried."""
        best = list(enumerate(self.choices))
        if self._request.tries > self._request.n:
            best = sorted(best, key=lambda each: -each[1].sureness)[: self._request.n]
        completions = [
            {"index": place, **self._told(choice.whole), "finish_reason": self._reason(number)}
            for place, (number, choice) in enumerate(best)
        ]
        return msgspec.json.encode({"completions": completions, "model_version": self._model, **self._counts()})

    def chunk(self, number: int, part: Part) -> bytes:
        """The event of a part of choice ``number``; none for one that says nothing."""
        if not (part.text or part.tokens):
            return b""
        return _event({"type": "stream_chunk", "index": number, **self._told(part)})

    def end(self, number: int) -> bytes:
        """The event of the end of choice ``number``."""
        shape = {"type": "stream_summary", "index": number, "model_version": self._model}
        return _event({**shape, "finish_reason": self._reason(number)})

    def summary(self) -> bytes:
        """The last event: what was counted."""
        return _event({"type": "completion_summary", **self._counts()})

    def _told(self, part: Part) -> dict[str, Any]:
        told: dict[str, Any] = {"completion": part.text}
        if self._request.raw:
            told["raw_completion"] = part.text
        if self._request.log_probs is not None:
            told["log_probs"] = [top or {} for top in part.top_logprobs]
        if self._request.tokens:
            told["completion_tokens"] = part.tokens
        return told

    def _reason(self, number: int) -> str:
        if self.choices[number].finish_reason == "length":
            return "maximum_tokens"
        return "stop_sequence_reached" if self._stopped.get(number) else "end_of_text"

    def _counts(self) -> dict[str, int]:
        used = self._answer.usage
        return {"num_tokens_prompt_total": used.prompt_tokens, "num_tokens_generated": used.completion_tokens}


async def _reply(exchange: Exchange, answer: Answer, shapes: _Shapes) -> None:
    async for number, item, _ in answer.news():
        shapes.choices[number].feed(item)
        if item.final is not None:
            shapes.ended(number, item.final.stop)
    await exchange.reply(200, shapes.completion())


async def _stream(exchange: Exchange, answer: Answer, shapes: _Shapes) -> None:
    await exchange.open_stream(keep_alive=b"")
    async for number, item, _ in answer.news():
        event = shapes.chunk(number, shapes.choices[number].feed(item))
        if item.final is not None:
            shapes.ended(number, item.final.stop)
            event += shapes.end(number)
        if None not in answer.finishes:
            await exchange.end_stream(event + shapes.summary())
        elif event:
            await exchange.write(event)


def _event(shape: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(shape) + b"\n\n"
