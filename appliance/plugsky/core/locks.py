"""Locks on files. The kernel drops them when the last process that holds them ends (flock(2)): none is ever stale."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError

FIRST_FREE: Final = 64


@contextmanager
def only_one(lock: Path, what: str, *, next: str = "plugsky doctor") -> Iterator[None]:  # noqa: A002 - as PlugskyError
    """Hold ``lock`` for as long as the block runs. Raises CONFLICT at once when another process does."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PlugskyError(
                ErrorKind.CONFLICT, f"{what} already.", why=f"another process holds {lock}", next=next
            ) from error
        yield


@contextmanager
def one_after_another(lock: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold ``lock``, after a wait where another process does; ``waiting`` is called before that.

    Gives the lock's descriptor. A child that is started with it (``pass_fds``) holds the lock as well, so that it is
    free only once the child has ended too, even when we are killed outright.
    """
    with lock.open("w") as file:  # beyond the numbers that listening sockets are handed over under
        handle = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
