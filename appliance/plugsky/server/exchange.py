"""One HTTP exchange over ASGI: a bounded body in; one reply, or one stream of server-sent events, out.

A client that hangs up is noticed while it is waited for (:meth:`Exchange.watch`), streaming or not. One that stops
reading for :data:`STALL_S` counts as gone. Writing to a client that is gone does nothing, so that the life of its
request goes on to its settled end. Writes go out one after another, and none behind the last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import ServiceClass

STALL_S: Final = 60.0
"""How long one write may wait for the client to read."""
BODY_S: Final = 60.0
"""How long a client may take to send its body."""
_KEY: Final = "plugsky.exchange"
HEAR_OUT_S: Final = 5.0
HEAR_OUT_BYTES: Final = 64 << 20
"""How much of an unwanted body is read and thrown away before the connection may close."""
KEEP_ALIVE: Final = b": keep-alive\n\n"

HeaderList = list[tuple[bytes, bytes]]
STREAM_HEADERS: Final[HeaderList] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-store"),
    (b"x-accel-buffering", b"no"),
]
JSON_HEADERS: Final[HeaderList] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class Wording(Protocol):
    """How a dialect words a failure: its status, its body, its headers, and the event that ends a stream."""

    def status(self, error: PlugskyError) -> int: ...

    def body(self, error: PlugskyError) -> bytes: ...

    def headers(self, error: PlugskyError) -> HeaderList: ...

    def event(self, error: PlugskyError) -> bytes: ...


class Exchange:
    """The server's end of one request. ``request_id`` names it on every reply, in the ledger and in the audit trail."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.raw_headers: HeaderList = scope["headers"]
        self.reply_headers: HeaderList = [
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        """Headers that go out with whatever is answered."""
        self.vouched_for = ""
        """The id of the key that asks where a batch does it for it; else the headers say who asks."""
        self.service_class: ServiceClass = "standard"
        self.wording: Wording | None = None
        """How failures are worded; OpenAI's way until a dialect says otherwise."""
        self.started = False
        self.status = 0
        """What was answered; 0 before that."""
        self.key_id = ""
        """Whose key it came with, once that is known."""
        self.streaming = False
        self.gone = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._heard = False
        self._ended = False
        self._writing = asyncio.Lock()
        self._wrote_at = 0.0
        self._keep_alive = KEEP_ALIVE
        self._on_gone: Callable[[], None] | None = None

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send, request_id: str) -> "Exchange":
        """The exchange of a request that just came in; the scope carries it from here on."""
        exchange = scope[_KEY] = cls(scope, receive, send, request_id)
        return exchange

    @staticmethod
    def in_scope(scope: Scope) -> "Exchange":
        """The exchange that the scope carries."""
        exchange: Exchange = scope[_KEY]
        return exchange

    def header(self, name: bytes) -> str:
        """The value of a header, by its name in lower case; empty where there is none."""
        return dict(self.raw_headers).get(name, b"").decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """What stands behind the path's question mark: the last of each name."""
        return dict(QueryParams(self._scope.get("query_string", b"")))

    @property
    def path_params(self) -> dict[str, str]:
        """What the route's pattern matched."""
        found: dict[str, str] = self._scope["path_params"]
        return found

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises ``too_large`` above ``limit`` bytes and ``timeout`` when it takes over a minute."""
        try:
            async with asyncio.timeout(BODY_S):
                return b"".join([part async for part in self.parts(limit)])
        except TimeoutError:
            raise _too_slow() from None

    async def parts(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it comes in. Raises ``too_large``, and ``timeout`` when a part takes over a minute."""
        self._check_headers(limit)
        size = 0
        while not self._heard:
            try:
                async with asyncio.timeout(BODY_S):
                    part = await self._hear()
            except TimeoutError:
                raise _too_slow() from None
            if self.gone:
                raise PlugskyError(ErrorKind.CANCELLED, "The client hung up while it sent its request")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            yield part

    def _check_headers(self, limit: int) -> None:
        for name, value in self.raw_headers:
            if name == b"content-length" and int(value) > limit:
                raise _too_large(limit)
            if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                raise PlugskyError(
                    ErrorKind.BAD_REQUEST, "A compressed body is not accepted", next="send it without content-encoding"
                )

    async def reply(self, status: int, body: bytes, headers: HeaderList = JSON_HEADERS) -> None:
        """Answer with one body. A client that is still sending its own is heard out, so that it gets to read this."""
        await self._start(status, [*headers, (b"content-length", str(len(body)).encode())])
        if not self._heard:
            await self._put(body, more=True)
            await self._hear_out()
            body = b""
        await self._put(body, more=False)

    async def _hear_out(self) -> None:
        """Throw away the rest of the request's body: a connection closed over unread bytes takes the reply with it."""
        if any(name == b"expect" for name, _ in self.raw_headers):
            return
        left = HEAR_OUT_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_OUT_S):
                while left > 0 and not self._heard and not self.gone:
                    left -= len(await self._hear())

    async def _hear(self) -> bytes:
        """The next part of the request's body."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()
            return b""
        self._heard = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def open_stream(self, headers: HeaderList = STREAM_HEADERS, *, keep_alive: bytes = KEEP_ALIVE) -> None:
        """Answer 200 and begin a stream. ``keep_alive`` is sent where it is silent; empty: nothing is."""
        self.streaming = True
        self._keep_alive = keep_alive
        await self._start(200, headers)

    async def write(self, data: bytes) -> None:
        """Send part of a stream."""
        await self._put(data, more=True)

    async def end_stream(self, data: bytes = b"") -> None:
        """Send the last part of a stream."""
        await self._put(data, more=False)

    @asynccontextmanager
    async def watch(self, keepalive_s: float, on_gone: Callable[[], None]) -> AsyncIterator[None]:
        """Meanwhile, notice a hang-up, and keep a silent stream alive with comments."""
        self._on_gone = on_gone
        watcher = asyncio.create_task(self._watch(keepalive_s))
        try:
            yield
        finally:
            self._on_gone = None
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _watch(self, keepalive_s: float) -> None:
        loop = asyncio.get_running_loop()
        while not self.gone:
            try:
                async with asyncio.timeout(keepalive_s):
                    message = await self._receive()
            except TimeoutError:
                if self.streaming and self._keep_alive and loop.time() - self._wrote_at >= keepalive_s / 2:
                    await self.write(self._keep_alive)
                continue
            if message["type"] == "http.disconnect":
                self._leave()

    async def _start(self, status: int, headers: HeaderList) -> None:
        self.started = True
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": self.reply_headers + headers})

    async def _put(self, data: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(STALL_S), self._writing:
                if self.gone or self._ended:
                    return
                self._ended = not more
                self._wrote_at = asyncio.get_running_loop().time()
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except (TimeoutError, OSError):
            self._leave()

    def _leave(self) -> None:
        self.gone = True
        act, self._on_gone = self._on_gone, None
        if act is not None:
            act()


def _too_slow() -> PlugskyError:
    return PlugskyError(ErrorKind.TIMEOUT, f"The request's body did not arrive within {BODY_S:.0f} s")


def _too_large(limit: int) -> PlugskyError:
    return PlugskyError(ErrorKind.TOO_LARGE, f"The request's body is over the limit of {limit} bytes")
