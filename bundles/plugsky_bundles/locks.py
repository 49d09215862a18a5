"""One worker at a time in a directory, by flock(2) on the directory itself.

The kernel drops the lock when its holder ends, however it ends, so there is nothing to clean up. Nothing is written.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plugsky_bundles.errors import Busy


@contextmanager
def locked(directory: Path, what: str, why: str) -> Iterator[None]:
    """Hold the lock of `directory`. Raises Busy at once, in these words, when someone else holds it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(what, why, "Wait for it to end") from None
        yield
    finally:
        os.close(handle)
