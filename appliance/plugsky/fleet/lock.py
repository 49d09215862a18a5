"""One change of a site at a time, by a lock on the site's directory that the kernel drops when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plugsky_bundles.errors import Busy


@contextmanager
def site_lock(root: Path) -> Iterator[None]:
    """Hold the lock of the site at ``root``. Raises Busy at once when someone else holds it."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"The site {root} is being changed", "another install or activation is running", "Wait for it to end"
            ) from None
        yield
    finally:
        os.close(handle)
