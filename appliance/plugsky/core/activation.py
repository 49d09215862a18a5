"""Sockets that a process is handed, and the addresses a site may listen on. systemd's protocol: sd_listen_fds(3).

A child cannot tell whether systemd or ``plugsky serve`` started it: either way its one listening socket is descriptor 3
and ``LISTEN_FDS`` is 1. ``LISTEN_PID``, where set, must name the process, so that a grandchild does not take it.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plugsky.core import env
from plugsky.core.errors import ErrorKind, PlugskyError

FIRST: Final = 3
BACKLOG: Final = 1024


def inherited_listener() -> socket.socket:
    """The listening socket that this process was handed. Raises BAD_REQUEST when there is none."""
    count, pid = env.LISTEN_FDS.read(), env.LISTEN_PID.read()
    if count != "1" or (pid is not None and pid != str(os.getpid())):
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "This process was handed no listening socket.",
            why="it is started by plugsky serve or by a systemd socket unit, not by hand",
            next="plugsky serve --root DIR",
        )
    try:
        listener = socket.socket(fileno=FIRST)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "Descriptor 3 is no listening socket.",
            why="LISTEN_FDS promises one",
            next="plugsky serve --root DIR",
        )
    os.set_inheritable(FIRST, False)
    return listener


def listen(host: str, port: int) -> socket.socket:
    """A TCP listener at that address; port 0 takes a free one. Raises CONFLICT for a port in use, by name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> PlugskyError:
    if error.errno == errno.EADDRINUSE:
        return PlugskyError(
            ErrorKind.CONFLICT,
            f"Port {port} of {host} is in use.",
            why="another program listens there",
            next="choose another with --port, or --port 0 for any free one",
        )
    if error.errno == errno.EACCES:
        return PlugskyError(
            ErrorKind.FORBIDDEN, f"Port {port} may not be used.", why="ports below 1024 are root's", next="--port 8080"
        )
    return PlugskyError(
        ErrorKind.BAD_REQUEST,
        f"{host}:{port} cannot be listened on.",
        why=error.strerror or str(error),
        next="--host 127.0.0.1",
    )


def private_directory(path: Path) -> None:
    """Make the runtime directory, this user's alone. Raises FORBIDDEN when someone else made it first (as in /tmp)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"{path} is not a private directory of this user.",
            why="another user could put a socket of their own there",
            next=f"remove {path}, then run the same command again",
        )


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold ``lock`` for as long as the block runs; the kernel drops it with the process. Raises CONFLICT."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PlugskyError(
                ErrorKind.CONFLICT, f"{what} already.", why=f"another process holds {lock}", next="plugsky doctor"
            ) from error
        yield
