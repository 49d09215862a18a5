"""Listening sockets: those a process is handed, those it binds, and the directory where those of a site lie.

*Handed over*, by systemd's protocol (sd_listen_fds(3)): a child cannot tell whether systemd or ``plugsky serve``
started it. Either way its listening sockets begin at descriptor 3 and ``LISTEN_FDS`` counts them; where they are
several, ``LISTEN_FDNAMES`` says which is which. ``LISTEN_PID``, where set, must name the process, so that a grandchild
does not take them.

*Bound*: a Unix socket lies in a directory that nobody but its owner or root can write in, has mode 0660, replaces one
that nobody listens on any more, and never takes the place of a living one or of a file that is no socket.
"""

import errno
import os
import shlex
import socket
import stat
from pathlib import Path
from typing import Final

from plugsky.core import env
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import MAX_SOCKET_PATH, SitePaths

FIRST: Final = 3
BACKLOG: Final = 1024


def inherited_listener() -> socket.socket:
    """The listening socket that this process was handed. Raises BAD_REQUEST when there is none, or several."""
    return _taken(FIRST, _handed(1))


def inherited_listeners(first: str, second: str) -> tuple[socket.socket, socket.socket | None]:
    """The listening sockets of these two names that this process was handed, the second where it was.

    The only one that a process is handed is the first, whatever its name. Raises BAD_REQUEST when that is not there.
    """
    count = _handed(2)
    if count == 1:
        return _taken(FIRST, count), None
    names = (env.LISTEN_FDNAMES.read() or "").split(":")
    if sorted(names) != sorted((first, second)):
        raise _not_handed(f"The sockets that this process was handed are not {first} and {second}.")
    one, other = (_taken(FIRST + names.index(name), count) for name in (first, second))
    return one, other


def _handed(most: int) -> int:
    """How many sockets this process was handed."""
    count, pid = env.LISTEN_FDS.read() or "", env.LISTEN_PID.read()
    if pid not in (None, str(os.getpid())) or count not in map(str, range(1, most + 1)):
        raise _not_handed("This process was handed no listening socket.")
    return int(count)


def _taken(descriptor: int, count: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        raise _not_handed(f"Descriptor {descriptor} is no listening socket, and LISTEN_FDS promises {count}.")
    os.set_inheritable(descriptor, False)
    return listener


def _not_handed(what: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.BAD_REQUEST,
        what,
        why="it is started by plugsky serve or by a systemd socket unit, not by hand",
        next="plugsky serve --root DIR",
    )


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
        f"{_authority(host, port)} cannot be listened on.",
        why=error.strerror or str(error),
        next="--host 127.0.0.1",
    )


def authority(listener: socket.socket) -> str:
    """``host:port`` of a TCP listener as a URL writes it: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return _authority(*listener.getsockname()[:2])


def bind_unix(path: Path, backlog: int = BACKLOG) -> socket.socket:
    """A listening Unix socket at ``path``, mode 0660; it does not block.

    Raises CONFLICT when somebody listens there, FORBIDDEN when others could take the place, BAD_REQUEST for a path that
    is too long.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"{path} is too long for a socket",
            why=f"the address of a Unix socket ends at {MAX_SOCKET_PATH} bytes",
            next="set XDG_RUNTIME_DIR to a shorter directory",
        )
    private_directory(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _make_way(path)
        listener.bind(os.fspath(path))
        path.chmod(0o660)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def is_listened_on(path: Path) -> bool:
    """Whether some process listens on the Unix socket at ``path``. It is connected to for a moment; nothing waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fspath(path)) in (0, errno.EAGAIN)


def private_directory(path: Path) -> None:
    """Make a directory for sockets, this user's alone. Raises FORBIDDEN when others could put sockets there.

    One of root's is as good: a site's service finds its directory prepared.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"The socket directory {path} is not safe.",
            why="it belongs to another user, or others may write in it",
            next=f"look at who made it, then: {shlex.join(['rm', '-r', str(path)])}",
        )


def announce(paths: SitePaths) -> None:
    """Leave ``root/run`` at the runtime directory, so that a command of any environment finds the running site."""
    new = paths.run_link.with_name(".run.new")
    new.unlink(missing_ok=True)
    new.symlink_to(paths.run)
    new.replace(paths.run_link)


def withdraw(paths: SitePaths) -> None:
    """Take back what :func:`announce` and the sockets of a site that has ended leave behind: nothing is to stay.

    A directory that somebody else made, or that holds what is not ours, is left.
    """
    paths.run_link.unlink(missing_ok=True)
    for directory in (paths.run / "engines", paths.run):
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS):
                raise


def _make_way(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError as error:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise PlugskyError(
                    ErrorKind.CONFLICT,
                    f"{path} is no socket.",
                    why="something else was put there",
                    next=shlex.join(["rm", str(path)]),
                ) from error
            path.unlink(missing_ok=True)
            return
    raise PlugskyError(
        ErrorKind.CONFLICT,
        f"A process listens on {path} already.",
        why="this site is running",
        next="stop it first, or serve another --root",
    )


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
