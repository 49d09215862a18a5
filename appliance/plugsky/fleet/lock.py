"""One change of a site at a time: what is looked at under the lock is still so when the change is made.

Whoever runs from a generation holds it, shared, so that nobody removes it meanwhile. The kernel lets go of every lock
when its last holder ends, however it ends (flock(2)).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from plugsky_bundles.locks import locked

CHILDREN_END_S: Final = 20.0
"""Seconds in which the children of an installation that was killed have ended: the kernel kills them with it."""


def site_lock(root: Path) -> AbstractContextManager[int]:
    """The lock of the site at ``root``, to hold in a ``with``. Raises Busy at once when someone else holds it."""
    return locked(root, f"The site {root} is being changed", "another install or activation is running")


def writers_lock(generations: Path) -> AbstractContextManager[int]:
    """Held by whoever writes into a generation, children included: they inherit the descriptor that it gives.

    Waits for the children of an installation that was killed. Raises Busy when they do not end.
    """
    what = f"Generations in {generations} are still written to"
    return locked(generations, what, "a child of an earlier installation runs on", patience_s=CHILDREN_END_S)


@contextmanager
def serving(generation: Path) -> Iterator[None]:
    """Keep ``generation`` from being removed while the block runs. Any number of processes may."""
    handle = _open(generation)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_served(generation: Path) -> bool:
    """Whether a process runs from ``generation``; one that is not there, or no directory, is served by nobody."""
    try:
        handle = _open(generation)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
