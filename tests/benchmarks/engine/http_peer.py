"""Requests to llama-server and its likes over HTTP, answers streamed; with as little work per token as can be.

The client runs on the same cores as the server, so it is no HTTP library: one connection per request, one write, and
the two parsers of :mod:`benchmarks.engine.sse`.
"""

import asyncio
import json
import time
from typing import Any

from benchmarks.engine.asks import Answer, Ask
from benchmarks.engine.sse import Chunked, Events

_READ = 1 << 16


class RefusedError(Exception):
    """The server answered with another status than 200."""


class HttpServer:
    """A server at an address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def ask(self, ask: Ask) -> Answer:
        """See :class:`~benchmarks.engine.asks.Server`."""
        answer = Answer(time.perf_counter())
        path, body = _request(ask)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
            status = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
            if b" 200 " not in status + b" ":
                raise RefusedError(f"{status.decode()}: {(await reader.read())[:500].decode(errors='replace')}")
            chunked, events = Chunked(), Events()
            while not chunked.over and (received := await reader.read(_READ)):
                for event in events.feed(chunked.feed(received)):
                    if event != "[DONE]":
                        _note(answer, json.loads(event))
        finally:
            writer.close()
        return answer


def _request(ask: Ask) -> tuple[str, dict[str, Any]]:
    common = {"stream": True, "temperature": ask.temperature, "ignore_eos": True, "cache_prompt": True}
    if ask.messages:
        messages = [{"role": role, "content": content} for role, content in ask.messages]
        return "/v1/chat/completions", common | {"messages": messages, "max_tokens": ask.max_tokens}
    plain = {"prompt": list(ask.tokens), "n_predict": ask.max_tokens, "return_tokens": True}
    return "/completion", common | plain


def _note(answer: Answer, event: dict[str, Any]) -> None:
    if "error" in event:
        raise RefusedError(str(event["error"]))
    if "choices" in event:
        count = sum(bool(choice["delta"].get("content")) for choice in event["choices"])
    else:
        answer.ids += event.get("tokens", [])
        count = len(event.get("tokens", []))
    if count:
        answer.arrivals.append((time.perf_counter(), count))
