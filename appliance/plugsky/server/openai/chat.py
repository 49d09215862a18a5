"""``POST /v1/chat/completions``, streaming and not.

The headers of a stream go out when the engine has accepted the request; what fails later is an event in the stream.
The first event carries the role, the last with a choice its ``finish_reason``; one with the usage and no choice follows
only when ``stream_options.include_usage`` asked for it; ``[DONE]`` ends a stream that ended well. Usage is counted and
settled whether it was asked for or not, before the client sees the end.
"""

import hashlib
import time
from typing import Any, Final

import msgspec

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.admission import authenticate, begin, in_flight, resolve
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.openai.fields import ChatRequest, parse
from plugsky.server.settlement import Answer, Ask

_CONTENT: Final = b'"content":""'
DONE: Final = b"data: [DONE]\n\n"


class ChatCompletions:
    """The endpoint."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        gateway, limits = self._gateway, self._gateway.policy.limits
        principal = await authenticate(gateway, exchange.raw_headers)
        async with in_flight(gateway, exchange.request_id, principal) as flight:
            body = await exchange.body(limits.max_body_bytes)
            request = parse(body, limits)
            flight.requested_model = request.model
            model = resolve(gateway, principal, request.model)
            exchange.reply_headers.append((b"x-plugsky-model", f"{model.id}@sha256:{model.digest}".encode()))
            if request.ignored:
                exchange.reply_headers.append((b"x-plugsky-ignored", ", ".join(request.ignored).encode()))
            ask = Ask(
                endpoint="chat.completions",
                requested_model=request.model,
                messages=request.messages,
                params=request.params,
                max_tokens=request.max_tokens,
                end_user=request.end_user,
                request_sha256=hashlib.sha256(body).digest(),
            )
            async with exchange.watch(limits.keepalive_s, lambda: flight.cancel("client")):
                answer = await begin(gateway, flight, model, ask)
                shapes = Shapes(flight.job, request, answer)
                try:
                    if request.stream:
                        await _stream(exchange, answer, shapes)
                    else:
                        await _whole(exchange, answer, shapes)
                finally:
                    await answer.close()


async def _whole(exchange: Exchange, answer: Answer, shapes: "Shapes") -> None:
    text = "".join([piece async for piece in answer.texts()])
    await exchange.reply(200, shapes.completion(text))


async def _stream(exchange: Exchange, answer: Answer, shapes: "Shapes") -> None:
    await exchange.open_stream()
    await exchange.write(shapes.first())
    async for piece in answer.texts():
        await exchange.write(shapes.piece(piece))
    await exchange.end_stream(shapes.last() + DONE)


class Shapes:
    """The JSON of one answer. What all events of a stream share is encoded once."""

    def __init__(self, job: str, request: ChatRequest, answer: Answer) -> None:
        self._answer = answer
        self._include_usage = request.include_usage
        self._common: dict[str, Any] = {
            "id": f"chatcmpl-{job}",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": answer.fingerprint,
        }
        around = self._event([{"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": None}])
        before, self._after = around.split(_CONTENT, 1)
        self._before = before + _CONTENT[:-2]

    def completion(self, text: str) -> bytes:
        """The whole answer of a request that does not stream."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": self._finish.reason,
        }
        return msgspec.json.encode(
            {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage(self._finish.usage)}
        )

    def first(self) -> bytes:
        """The event that names the role."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def piece(self, text: str) -> bytes:
        """An event with the next piece of text."""
        return self._before + msgspec.json.encode(text) + self._after

    def last(self) -> bytes:
        """The event with the reason of the end, and the one with the usage where it was asked for."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._finish.reason}
        end = self._event([choice])
        return end + self._event([], usage(self._finish.usage)) if self._include_usage else end

    @property
    def _finish(self) -> frames.Finish:
        if self._answer.finish is None:
            raise PlugskyError(ErrorKind.INTERNAL, "The answer has no end yet")
        return self._answer.finish

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
        shape = {**self._common, "object": "chat.completion.chunk", "choices": choices}
        if self._include_usage:
            shape["usage"] = used
        return b"data: " + msgspec.json.encode(shape) + b"\n\n"


def usage(used: frames.Usage) -> dict[str, Any]:
    """The usage as the OpenAI dialect counts it."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }
