"""One connection to the engine: bytes in, frames out, and the rule that a peer harms only itself.

Nothing here waits. A peer that leaves more than :data:`MAX_UNREAD` bytes undrained is cut, one that sends what is no
frame is told so and cut, and either way the owner learns of it once through ``lost``.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from plugsky.core import frames
from plugsky.core.errors import ErrorKind

MAX_UNREAD: Final = 4 << 20
"""Bytes that may wait for a peer to read them."""


class Peer(asyncio.Protocol):
    """The engine's side of one connection. ``handle`` gets each frame after a ``hello`` that fits, ``lost`` the end."""

    def __init__(
        self,
        greeted: "Callable[[Peer], None]",
        handle: "Callable[[Peer, frames.ToEngine], None]",
        lost: "Callable[[Peer], None]",
    ) -> None:
        self._greeted = greeted
        self._handle = handle
        self._lost = lost
        self._buffer = frames.to_engine_buffer()
        self._transport: asyncio.Transport | None = None
        self.greeted = False
        """Whether the peer has said ``hello``; nothing is sent before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._buffer.feed(data):
                if self._transport is None or self._transport.is_closing():
                    return
                self._receive(frame)
        except frames.FrameError as error:
            self.reject(str(error))

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._lost(self)

    def send(self, frame: frames.FromEngine) -> None:
        """Queue a frame for the peer; cut the peer when it has stopped reading."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(frames.encode(frame))
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            self._transport.abort()

    def reject(self, what: str) -> None:
        """Say what is wrong with the connection as a whole and end it."""
        self.send(frames.Failed(rid=0, kind=ErrorKind.BAD_REQUEST.wire, what=what))
        self.close()

    def close(self) -> None:
        """End the connection once the peer has read what is queued for it."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _receive(self, frame: frames.ToEngine) -> None:
        if self.greeted:
            self._handle(self, frame)
        elif not isinstance(frame, frames.ClientHello):
            self.reject("the first frame must be hello")
        elif frame.proto != frames.PROTOCOL:
            self.reject(f"this engine speaks protocol {frames.PROTOCOL}, the peer {frame.proto}")
        else:
            self.greeted = True
            self._greeted(self)
