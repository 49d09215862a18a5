"""Files that are either wholly there or not at all, also after a power cut.

Write to a temporary name in the same directory, fsync, rename, fsync the directory. A full disk is `NoSpace`; the
temporary file is removed whatever happens. One that a killed process left behind is in nobody's way: no two have one
name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from plugsky_bundles.errors import NoSpace
from plugsky_bundles.readback import file_system
from plugsky_bundles.sizes import size


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path`, replacing what was there in one step.

    Raises NoSpace, or an OSError: FileNotFoundError names the directory that is not there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with out_of_space(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, error.strerror, os.fspath(path.parent)) from None
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def open_fresh(path: Path) -> int:
    """Open a file for writing that was not there: what lay under that name is removed, and no link is followed.

    For large files, whose temporary name stays the same so that one that a killed process left behind is replaced.
    Raises OSError.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def sync_directory(path: Path) -> None:
    """Make the names in `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def out_of_space(path: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT inside the block into `NoSpace` naming `path` and what it lies on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(path) from error


def full(path: Path, what: str | None = None, need: int | None = None) -> NoSpace:
    """The error of a disk that is full at `path`; `need` is about how many bytes `what` takes there in all."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    mount, room = file_system(there).mount, os.statvfs(there)
    left, whole = size(room.f_bavail * room.f_frsize), size(room.f_blocks * room.f_frsize)
    why = f"the disk is full: {left} of {whole} are left on {mount}"
    free = "some space" if need is None else f"about {size(need)}"
    return NoSpace(f"{what or path} could not be written", why, f"Free {free} on {mount} and run it again")
