"""An engine that costs next to nothing, with two faces: frames on a Unix socket, OpenAI's API over HTTP on loopback.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/gateway/stub.py SOCKET PORT PACE_MS

One clock ticks for all: with every tick each answer under way has one token more, as in a step of a real engine. A
token's text is the moment it was written, in nanoseconds of CLOCK_MONOTONIC, so that whoever reads it on this host
knows how long it was under way. An answer has ``max_tokens`` tokens; one whose prompt says `hold` has one, and then
stays silent until its peer goes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from plugsky.core import frames

DIGEST = "ab" * 32
PROMPT = tuple(range(1000, 1032))
FAMILY = "smollm2"
"""Whose answers these are, so that a gateway has to read them as it reads a real model's."""
END = b"0\r\n\r\n"
CORS = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
MODELS = b'{"object":"list","data":[{"id":"stub","object":"model","created":1,"owned_by":"stub"}]}'


@dataclass
class Running:
    """An answer under way. ``say`` is given its tokens one by one, and None at its end."""

    left: int
    hold: bool
    say: Callable[[str | None], None]


class Ticker:
    """Gives every answer a token at the same moment."""

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self.running: dict[object, Running] = {}
        self.flush: list[Callable[[], None]] = []

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._pace_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            now = str(time.monotonic_ns()) + " "
            for name, one in list(self.running.items()):
                if one.hold and one.left <= 0:
                    continue
                one.left -= 1
                one.say(now)
                if one.left <= 0 and not one.hold:
                    one.say(None)
                    self.running.pop(name, None)
            for flush in self.flush:
                flush()


class FramesFace:
    """The engine's side of one connection."""

    def __init__(self, ticker: Ticker, writer: asyncio.StreamWriter) -> None:
        self._ticker, self._writer = ticker, writer
        self._items: list[frames.StepItem] = []
        self._steps = 0
        self._hold = False

    async def serve(self, reader: asyncio.StreamReader) -> None:
        buffer = frames.to_engine_buffer()
        self._ticker.flush.append(self._flush)
        try:
            while data := await reader.read(1 << 16):
                for frame in buffer.feed(data):
                    self._take(frame)
        finally:
            self._ticker.flush.remove(self._flush)
            for name in [name for name in self._ticker.running if isinstance(name, tuple) and name[0] is self]:
                del self._ticker.running[name]
            self._writer.close()

    def _take(self, frame: frames.ToEngine) -> None:
        if isinstance(frame, frames.ClientHello):
            self._say(frames.EngineHello(frames.PROTOCOL, "i1", "stub", DIGEST, 1 << 20))
        elif isinstance(frame, frames.Prepare):
            self._hold = "hold" in str(frame.messages)
            self._say(frames.Prepared(frame.rid, PROMPT, 1 << 19, family=FAMILY))
        elif isinstance(frame, frames.Submit):
            self._say(frames.Accepted(frame.rid))
            left = 1 if self._hold else frame.max_tokens
            say = partial(self._token, frame.rid, frame.max_tokens)
            self._ticker.running[self, frame.rid] = Running(left, self._hold, say)
        elif isinstance(frame, frames.Cancel) and self._ticker.running.pop((self, frame.rid), None):
            self._final(frame.rid, "cancelled", 1)

    def _token(self, rid: int, made: int, text: str | None) -> None:
        if text is None:
            self._final(rid, "length", made)
        else:
            self._items.append(frames.StepItem(rid, ids=(7,), text=text))

    def _final(self, rid: int, reason: frames.FinishReason, made: int) -> None:
        finish = frames.Finish(reason, frames.Usage(len(PROMPT), made, engine_us=made * 1000))
        self._items.append(frames.StepItem(rid, final=finish))

    def _flush(self) -> None:
        if self._items:
            self._steps += 1
            self._say(frames.Step(self._steps, 1000, tuple(self._items)))
            self._items.clear()

    def _say(self, frame: frames.FromEngine) -> None:
        self._writer.write(frames.encode(frame))


class HttpFace:
    """One HTTP connection: chats as streams or whole, and the list of models."""

    def __init__(self, ticker: Ticker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ticker, self._reader, self._writer = ticker, reader, writer

    async def serve(self) -> None:
        try:
            while head := await self._reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").lower().split("\r\n")
                length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
                body = json.loads(await self._reader.readexactly(length) or b"{}")
                if "/chat/completions" not in lines[0]:
                    self._whole(MODELS)
                elif body.get("stream"):
                    await self._stream(body)
                else:
                    self._whole(_completion("0 ", 1))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._ticker.running.pop(self, None)
            self._writer.close()

    def _whole(self, body: bytes) -> None:
        head = CORS % b"application/json" + b"Content-Length: %d\r\n\r\n" % len(body)
        self._writer.write(head + body)

    async def _stream(self, body: dict[str, object]) -> None:
        over = asyncio.Event()
        self._writer.write(CORS % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n")
        self._writer.write(_chunked(_event({"role": "assistant", "content": ""})))
        asked = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        hold = "hold" in str(body.get("messages"))
        left = 1 if hold else int(str(asked))
        self._ticker.running[self] = Running(left, hold, partial(self._token, over, left))
        await over.wait()

    def _token(self, over: asyncio.Event, made: int, text: str | None) -> None:
        if text is not None:
            self._writer.write(_chunked(_event({"content": text})))
            return
        used = {"prompt_tokens": len(PROMPT), "completion_tokens": made, "total_tokens": len(PROMPT) + made}
        last = _event({}, "length") + b"data: " + json.dumps(_shape([]) | {"usage": used}).encode() + b"\n\n"
        self._writer.write(_chunked(last + b"data: [DONE]\n\n") + END)
        over.set()


def _shape(choices: list[dict[str, object]]) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": choices}


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice: dict[str, object] = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps(_shape([choice])).encode() + b"\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _completion(text: str, made: int) -> bytes:
    message = {"role": "assistant", "content": text}
    used = {"prompt_tokens": len(PROMPT), "completion_tokens": made, "total_tokens": len(PROMPT) + made}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": used}
    return json.dumps(_shape([]) | {"object": "chat.completion"} | whole).encode()


async def serve(socket_path: Path, port: int, pace_s: float) -> None:
    """Until SIGTERM."""
    ticker = Ticker(pace_s)

    async def frames_face(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await FramesFace(ticker, writer).serve(reader)

    async def http_face(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await HttpFace(ticker, reader, writer).serve()

    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.start_unix_server(frames_face, socket_path)
    await asyncio.start_server(http_face, "127.0.0.1", port, backlog=2048)
    ticking = asyncio.create_task(ticker.run())
    await over.wait()
    ticking.cancel()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
