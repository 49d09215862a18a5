"""Who is at the other end of a Unix socket: the kernel's word (``SO_PEERCRED``, unix(7)), never the peer's."""

import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")


def peer_uid(connection: socket.socket) -> int:
    """The uid that the peer's process had when it connected, or when it began to listen."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return int(uid)
