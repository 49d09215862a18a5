"""One worker at a time in a directory, by flock(2) on the directory itself.

The kernel drops the lock when its holder ends, however it ends, so there is nothing to clean up. Nothing is written.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plugsky_bundles.errors import Busy

_LOOK_AGAIN_S: Final = 0.05


@contextmanager
def locked(directory: Path, what: str, why: str, *, patience_s: float = 0.0) -> Iterator[int]:
    """Hold the lock of `directory`; gives its descriptor, and a process that inherits that holds the lock as well.

    Raises Busy, in these words, when someone else still holds it after `patience_s` seconds.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Busy(what, why, "Wait for it to end") from None
                time.sleep(_LOOK_AGAIN_S)
        yield handle
    finally:
        os.close(handle)
