"""Calls verbs over a Unix socket: the other side of :mod:`plugsky.admin.call_server`. Needs ``core`` only.

Many calls share one connection. It is made by the first call and made again by the next call after it broke, so a
caller that keeps trying finds a restarted site by itself. The peer must run as root, as the caller, or as the owner of
the site: a socket that a stranger put in place is not spoken to. Every failure is a :class:`PlugskyError`; UNREACHABLE
means nobody answers there.

No call waits for another: a stream whose reader is behind by :data:`MAX_ITEMS` loses its oldest items, never its end.
Streams carry states, of which the newest is the one that counts.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from plugsky.admin.peer import peer_uid
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
    encode,
    from_admin_buffer,
)

CONNECT_S: Final = 5.0
MAX_ITEMS: Final = 64
_CHUNK: Final = 64 * 1024

Unreachable = Callable[[str], PlugskyError]
"""Makes the error for a peer that is not there, from the reason."""


class CallClient:
    """A connection to one call server. Belongs to one event loop."""

    def __init__(self, path: Path, unreachable: Unreachable, served_by: Iterable[int] = ()) -> None:
        """``served_by`` are the uids that may serve there beside root and this process's own."""
        self._path = path
        self._unreachable = unreachable
        self._trusted = {0, os.geteuid(), *served_by}
        self._connecting = asyncio.Lock()
        self._wire: _Wire | None = None
        self._next = 0

    async def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        """The result of a unary verb, as plain values."""
        wire, number, frames = await self._begin(verb, arguments)
        try:
            frame = await frames.get()
        except asyncio.CancelledError:
            wire.send_nowait(encode(Abort(number)))
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
                wire.send_nowait(encode(Abort(number)))

    async def close(self) -> None:
        """Ends the connection and what runs on it."""
        if self._wire is not None:
            await self._wire.close()
            self._wire = None

    async def _begin(self, verb: str, arguments: dict[str, Any]) -> "tuple[_Wire, int, asyncio.Queue[_Answer]]":
        self._next += 1
        number = self._next
        call = _encoded(Call(number, verb, arguments))
        async with self._connecting:
            if self._wire is None or self._wire.broken:
                if self._wire is not None:
                    await self._wire.close()
                self._wire = await self._connect()
            wire = self._wire
        frames: asyncio.Queue[_Answer] = asyncio.Queue(MAX_ITEMS)
        wire.waiting[number] = frames
        wire.send_nowait(call)
        return wire, number, frames

    async def _connect(self) -> "_Wire":
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(os.fspath(self._path))
        except TimeoutError:
            raise self._unreachable("it does not answer") from None
        except OSError as error:
            raise self._unreachable(error.strerror or type(error).__name__) from error
        uid = peer_uid(writer.get_extra_info("socket"))
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


def _encoded(call: Call) -> bytes:
    try:
        return encode(call)
    except UnicodeEncodeError:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"the arguments of {call.verb} are not text",
            why="they hold bytes that are not UTF-8",
            next="give them in UTF-8",
        ) from None
    except FrameError as error:
        raise PlugskyError(
            ErrorKind.TOO_LARGE, f"the arguments of {call.verb} are too large", why=str(error)
        ) from error


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

    def send_nowait(self, frame: bytes) -> None:
        if not self.broken:
            self._writer.write(frame)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_CHUNK):
                for frame in self._buffer.feed(data):
                    if (frames := self.waiting.get(frame.id)) is not None:
                        _put(frames, frame)
                await asyncio.sleep(0)  # who waits for a frame takes it before the next ones come
        except (FrameError, ConnectionError):
            pass  # told to every waiting call below, as a connection that ended
        finally:
            self.broken = True
            for frames in self.waiting.values():
                _put(frames, None)
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()


def _put(frames: "asyncio.Queue[_Answer]", frame: _Answer) -> None:
    if frames.full():
        frames.get_nowait()
    frames.put_nowait(frame)
