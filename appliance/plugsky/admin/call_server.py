"""Serves calls over a Unix socket: the Admin service's socket, and the gateway's control socket.

Guarantees: a socket that it binds lies in a private directory, has mode 0660, and is removed when the server closes;
one that it is handed stays; who calls is taken from the kernel, never from the frames. A connection runs at most
:data:`MAX_CALLS` calls at once; an ``abort`` or the end of the connection cancels what it had asked for. A peer that
does not read is given :data:`PATIENCE_S` and then cut; bytes that are no frame end the connection. A failure answers
with its kind and words; one that was not foreseen answers ``internal`` and is logged by its place, never by words that
might be content.
"""

import asyncio
import logging
import socket
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final

from plugsky.admin.peer import peer_uid
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import (
    Abort,
    Call,
    CallFailed,
    End,
    FrameError,
    FromAdmin,
    Item,
    Reply,
    encode,
    to_admin_buffer,
)
from plugsky.core.listeners import bind_unix

MAX_CALLS: Final = 32
MAX_CONNECTIONS: Final = 64
PATIENCE_S: Final = 30.0
_CHUNK: Final = 64 * 1024
_KEEPING: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Python 3.13 would remove the socket's file, which is this module's business or systemd's."""
_log = logging.getLogger(__name__)

Answer = Awaitable[Any] | AsyncGenerator[Any]
Answering = Callable[[int, str, Mapping[str, Any]], Answer]
"""Takes the caller's uid, the verb and its arguments; gives one value to await, or a stream of them."""


class CallServer:
    """Answers calls on one Unix socket, until closed."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self._bound: tuple[Path, int] | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, path: Path, listener: socket.socket | None = None) -> None:
        """Begins to accept on ``listener``, or on ``path``, which it then binds and removes.

        Raises as :func:`plugsky.core.listeners.bind_unix`.
        """
        if listener is not None:
            listener.setblocking(False)
        self._server = await asyncio.start_unix_server(self._accepted, sock=listener or self._bind(path), **_KEEPING)

    async def close(self) -> None:
        """Stops accepting, removes the socket that it bound, cancels every call and closes every connection."""
        if self._server is not None:
            self._server.close()
        self._remove_socket()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _bind(self, path: Path) -> socket.socket:
        listener = bind_unix(path, MAX_CONNECTIONS)
        self._bound = path, path.stat().st_ino
        return listener

    def _remove_socket(self) -> None:
        """One that a successor put there stays."""
        if self._bound is not None:
            path, inode = self._bound
            with suppress(FileNotFoundError):
                if path.lstat().st_ino == inode:
                    path.unlink()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, self._answer)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                return
            buffer = to_admin_buffer()
            while data := await reader.read(_CHUNK):
                for frame in buffer.feed(data):
                    await connection.take(frame)
        except (FrameError, ConnectionError) as error:
            _log.info("a connection was cut: %s", error)
        finally:
            await connection.end()


class _Connection:
    """The calls in flight of one peer."""

    def __init__(self, writer: asyncio.StreamWriter, answer: Answering) -> None:
        self._writer = writer
        self._answer = answer
        self._uid = peer_uid(writer.get_extra_info("socket"))
        self._calls: dict[int, asyncio.Task[None]] = {}

    async def take(self, frame: Call | Abort) -> None:
        if isinstance(frame, Abort):
            if task := self._calls.get(frame.id):
                task.cancel()
            return
        if frame.id in self._calls or len(self._calls) >= MAX_CALLS:
            error = PlugskyError(
                ErrorKind.OVERLOADED, "too many calls on one connection", why=f"at most {MAX_CALLS} run at once"
            )
            await self._send(_failed(frame.id, error))
            return
        task = asyncio.get_running_loop().create_task(self._run(frame))
        self._calls[frame.id] = task
        task.add_done_callback(lambda task: self._over(frame, task))

    async def end(self) -> None:
        calls = list(self._calls.values())
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _run(self, call: Call) -> None:
        try:
            answer = self._answer(self._uid, call.verb, call.args)
            if isinstance(answer, AsyncGenerator):
                async with aclosing(answer):
                    async for item in answer:
                        await self._send(Item(call.id, item))
                await self._send(End(call.id))
            else:
                await self._send(Reply(call.id, await answer))
        except PlugskyError as error:
            await self._send(_failed(call.id, error))
        except FrameError as error:
            too_large = PlugskyError(ErrorKind.TOO_LARGE, "the answer is too large for one frame", why=str(error))
            await self._send(_failed(call.id, too_large))

    def _over(self, call: Call, task: asyncio.Task[None]) -> None:
        self._calls.pop(call.id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("%s failed: %s at %s:%s", call.verb, type(error).__name__, place.filename, place.lineno)
            internal = PlugskyError(ErrorKind.INTERNAL, "the call failed", next="plugsky doctor")
            self._writer.write(encode(_failed(call.id, internal)))

    async def _send(self, frame: FromAdmin) -> None:
        with suppress(ConnectionError):
            self._writer.write(encode(frame))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._writer.drain()
            except TimeoutError:
                self._writer.transport.abort()


def _failed(number: int, error: PlugskyError) -> CallFailed:
    return CallFailed(number, error.kind.wire, error.what, error.why, error.next)
