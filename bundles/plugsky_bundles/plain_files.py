"""Files and directories where someone else may have put something: a card, an approval, a log on a stick.

Only a regular file is read; a link is not followed, and a pipe or a device is not waited for. A directory to write into
is one, and no link to one.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from plugsky_bundles.errors import NotFound, UnsafeName
from plugsky_bundles.strict_json import malformed


def read_plain(path: Path, limit: int, then: str) -> bytes:
    """The first `limit` + 1 bytes of the file at `path`, so that the caller sees when it is longer.

    Raises as `open_plain`.
    """
    with open_plain(path, then) as file:
        return file.read(limit + 1)


def open_plain(path: Path, then: str) -> BinaryIO:
    """The regular file at `path`, to be read.

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
    return os.fdopen(handle, "rb")


def make_folder(path: Path, *, links: bool = False) -> None:
    """Make a directory, if it is not there; one that is a link to one is refused unless `links`.

    Raises UnsafeName or OSError.
    """
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not links and not stat.S_ISDIR(path.lstat().st_mode):
        raise UnsafeName(
            f"{path} is a link", "who put it there would choose where this is written", "Remove it, and run this again"
        )
