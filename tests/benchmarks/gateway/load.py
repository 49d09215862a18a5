"""Many people who stream chats at the same time, and how long each token of theirs was under way.

The client shares the cores with what it measures, so it is no HTTP library: one write and two small parsers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from benchmarks.engine.sse import Chunked, Events


@dataclass(frozen=True)
class Target:
    """Something that answers chats: its port on loopback, the key it wants, and what it calls the model."""

    name: str
    port: int
    key: str = "none"
    model: str = "stub"


@dataclass
class Seen:
    """What came: milliseconds that each token was under way, and from a request to its first token; the whole time."""

    tokens: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0


class RefusedError(RuntimeError):
    """The target answered with another status than 200."""


async def streams(target: Target, *, people: int, requests: int, max_tokens: int) -> Seen:
    """Each of ``people`` has so many chats, one after another, over a connection that stays."""
    seen = Seen()
    began = time.monotonic()
    await asyncio.gather(*(_person(target, seen, requests, max_tokens) for _ in range(people)))
    seen.seconds = time.monotonic() - began
    return seen


async def _person(target: Target, seen: Seen, requests: int, max_tokens: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        for _ in range(requests):
            sent = time.monotonic_ns()
            writer.write(request(target, "how wide is the sea", max_tokens))
            count = 0
            async for at, text in answer(reader):
                stamp = int(text)
                seen.tokens.append((at - stamp) / 1e6)
                if not count:
                    seen.firsts.append((at - sent) / 1e6)
                count += 1
            if count != max_tokens:
                raise RefusedError(f"{target.name}: {count} tokens of {max_tokens} came")
            seen.requests += 1
    finally:
        writer.close()


def request(target: Target, text: str, max_tokens: int) -> bytes:
    """A streamed chat, as bytes."""
    shape = {
        "model": target.model,
        "messages": [{"role": "system", "content": "You answer."}, {"role": "user", "content": text}],
        "stream": True,
        "max_tokens": max_tokens,
    }
    body = json.dumps(shape).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: site\r\nAuthorization: Bearer {target.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, str]]:
    """The moment each token arrived, and its text."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RefusedError((head + await reader.read(2000)).decode(errors="replace"))
    chunked, events = Chunked(), Events()
    while not chunked.over and (received := await reader.read(1 << 16)):
        at = time.monotonic_ns()
        for event in events.feed(chunked.feed(received)):
            if event == "[DONE]":
                continue
            shape = json.loads(event)
            if "error" in shape:
                raise RefusedError(event)
            for choice in shape["choices"]:
                for text in (choice["delta"].get("content") or "").split():
                    yield at, text


@contextlib.asynccontextmanager
async def holding(target: Target, count: int) -> AsyncIterator[None]:
    """Meanwhile, so many streams that have had their first token and wait for more."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            stack.callback(writer.close)
            writer.write(request(target, "hold", 8))
            flow = await stack.enter_async_context(contextlib.aclosing(answer(reader)))
            await anext(flow)
        yield
