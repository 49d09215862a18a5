"""Calls verbs over a Unix socket: the other side of :mod:`plugsky.admin.call_server`. Imports ``core`` only.

Many calls share one connection. It is made by the first call and made again by the next call after it broke, so a
caller that keeps trying finds a restarted site by itself. The peer must run as root, as the caller, or as the owner of
the site: a socket that a stranger put in place is not spoken to. Every failure is a :class:`PlugskyError`; UNREACHABLE
means nobody answers there.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import (
    Abort,
    Call,
    CallFailed,
    End,
    FrameBuffer,
    FrameError,
    FromAdmin,
    Item,
    Reply,
    ToAdmin,
    encode,
    from_admin_buffer,
)

CONNECT_S: Final = 5.0
_MAX_ITEMS: Final = 64
_CHUNK: Final = 64 * 1024
_CREDENTIALS: Final = struct.Struct("3i")

Unreachable = Callable[[str], PlugskyError]
"""Makes the error for a peer that is not there, from the reason."""


class CallClient:
    """A connection to one call server. Belongs to one event loop."""

    def __init__(self, path: Path, unreachable: Unreachable, owner: int | None = None) -> None:
        self._path = path
        self._unreachable = unreachable
        self._trusted = {0, os.geteuid()} | ({owner} if owner is not None else set())
        self._connecting = asyncio.Lock()
        self._wire: _Wire | None = None
        self._next = 0

    async def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        """The result of a unary verb, as plain values."""
        wire, number, frames = await self._begin(verb, arguments)
        try:
            frame = await frames.get()
        except asyncio.CancelledError:
            wire.send_nowait(Abort(number))
            raise
        finally:
            wire.waiting.pop(number, None)
        if isinstance(frame, Reply):
            return frame.value
        raise self._error(frame)

    async def stream(self, verb: str, arguments: dict[str, Any]) -> AsyncGenerator[Any]:
        """The results of a streaming verb, as plain values; closing the iterator stops the verb."""
        wire, number, frames = await self._begin(verb, arguments)
        over = False
        try:
            while True:
                frame = await frames.get()
                if isinstance(frame, Item):
                    yield frame.value
                    continue
                over = True
                if isinstance(frame, End):
                    return
                raise self._error(frame)
        finally:
            wire.waiting.pop(number, None)
            if not over:
                wire.send_nowait(Abort(number))

    async def close(self) -> None:
        """Ends the connection and what runs on it."""
        if self._wire is not None:
            await self._wire.close()
            self._wire = None

    async def _begin(self, verb: str, arguments: dict[str, Any]) -> "tuple[_Wire, int, asyncio.Queue[_Answer]]":
        async with self._connecting:
            if self._wire is None or self._wire.broken:
                if self._wire is not None:
                    await self._wire.close()
                self._wire = await self._connect()
            wire = self._wire
        self._next += 1
        frames: asyncio.Queue[_Answer] = asyncio.Queue(_MAX_ITEMS)
        wire.waiting[self._next] = frames
        wire.send_nowait(Call(self._next, verb, arguments))
        return wire, self._next, frames

    async def _connect(self) -> "_Wire":
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(os.fspath(self._path))
        except TimeoutError:
            raise self._unreachable("it does not answer") from None
        except OSError as error:
            raise self._unreachable(error.strerror or type(error).__name__) from error
        peer: socket.socket = writer.get_extra_info("socket")
        size = _CREDENTIALS.size
        _pid, uid, _gid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        if uid not in self._trusted:
            writer.close()
            raise PlugskyError(
                ErrorKind.FORBIDDEN,
                f"the process behind {self._path} is not this site's",
                why=f"it runs as uid {uid}, which is neither root, you, nor the site's owner",
                next=f"look at who made it: ls -l {self._path}",
            )
        return _Wire(reader, writer, from_admin_buffer())

    def _error(self, frame: "_Answer") -> PlugskyError:
        if isinstance(frame, CallFailed):
            return PlugskyError(ErrorKind.from_wire(frame.kind), frame.what, why=frame.why, next=frame.next)
        return self._unreachable("the connection ended")


_Answer = FromAdmin | None


class _Wire:
    """One connection: a task that reads frames and hands each to the call it answers."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, buffer: FrameBuffer[FromAdmin]
    ) -> None:
        self.waiting: dict[int, asyncio.Queue[_Answer]] = {}
        self.broken = False
        self._reader, self._writer, self._buffer = reader, writer, buffer
        self._task = asyncio.get_running_loop().create_task(self._read())

    def send_nowait(self, frame: ToAdmin) -> None:
        if not self.broken:
            self._writer.write(encode(frame))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_CHUNK):
                for frame in self._buffer.feed(data):
                    if (frames := self.waiting.get(frame.id)) is not None:
                        await frames.put(frame)
        except (FrameError, ConnectionError):
            pass  # told to every waiting call below, as a connection that ended
        finally:
            self.broken = True
            for frames in self.waiting.values():
                if frames.full():
                    frames.get_nowait()
                frames.put_nowait(None)
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()
