"""Reading a small file that someone else put there: a card, a copy of a root, an approval, a statement.

Only a regular file is read, never more than the limit and one byte; a link is not followed, and a pipe or a device is
not waited for.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from plugsky_bundles.errors import NotFound
from plugsky_bundles.strict_json import malformed


def read_plain(path: Path, limit: int, then: str) -> bytes:
    """The first `limit` + 1 bytes of the file at `path`, so that the caller sees when it is longer.

    Raises NotFound, which advises `then`; MalformedMetadata for what is no regular file; OSError.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path} is not there", "no such file exists", then) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise malformed(f"{path}", "it is no file") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise malformed(f"{path}", "it is no file")
    with os.fdopen(handle, "rb") as file:
        return file.read(limit + 1)
