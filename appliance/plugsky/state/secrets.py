"""Secrets of the site that are made once and kept as files of the site's own (:mod:`plugsky_bundles.sharing`).

:func:`read_or_make` is safe against two processes that start at once and against a cut at any moment: the secret is
written and synced under another name and then linked to its own, which only one process can do and which never shows
a half-written file.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_bundles.atomic import sync_directory
from plugsky_bundles.sharing import file_mode, is_open_to_others

MAX_SECRET: Final = 64 * 1024


def read_secret(path: Path) -> bytes | None:
    """The secret in ``path``, None where there is none. Raises :class:`PlugskyError` when others could have read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"the secret {path} cannot be read",
            why=error.strerror or type(error).__name__,
            next="run the command as the owner of the site",
        ) from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if is_open_to_others(status, path.parent.stat()):
            mode = stat.S_IMODE(status.st_mode)
            raise PlugskyError(
                ErrorKind.FORBIDDEN,
                f"the secret {path} is open to others",
                why=f"its mode is {mode:04o}; only the site may read it",
                next=f"find out who had access, then: chmod 600 {path}",
            )
        return file.read(MAX_SECRET)


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The secret in ``path``, made by ``make`` the first time."""
    present = read_secret(path)
    if present is not None:
        return present
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # mkstemp: mode 0600
        os.fchmod(file.fileno(), file_mode(path.parent))
        file.write(make())
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first; its secret is the site's
            os.link(file.name, path)
    sync_directory(path.parent)
    made = read_secret(path)
    if made is None:
        raise PlugskyError(
            ErrorKind.CONFLICT, f"the secret {path} went away while it was being made", next="run the command again"
        )
    return made
