"""A file that no bundle brought -> the store: copied once, hashed on the way, and there only when it is right.

The file is written beside the store, under no name that anything looks for. Its length and digest must be the expected
ones, and whatever else it must be is asked of the copy, which nobody else can change any more; then it is on disk,
read-only, and takes its name in the store in one step.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from plugsky.core.paths import SitePaths
from plugsky.fleet import generations
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.errors import DigestMismatch, NotFound
from plugsky_bundles.format import FileEntry
from plugsky_bundles.media_directory import unreadable
from plugsky_bundles.progress import Progress, ProgressEvent

BLOCK: Final = 1024 * 1024
_PART: Final = "part"

Check = Callable[[BinaryIO], None]


def take_in(
    paths: SitePaths, blocks: Iterable[bytes], entry: FileEntry, progress: Progress, check: Check | None = None
) -> None:
    """Put the file of ``entry`` into the store; one that is there already is replaced by the same bytes.

    Raises DigestMismatch, what ``check`` raises, NoSpace or SiteUnwritable; the store is as it was then.
    """
    part = paths.staging / _PART
    with generations.unwritable(paths.store), out_of_space(paths.store):
        paths.staging.mkdir(mode=0o700, exist_ok=True)
        part.unlink(missing_ok=True)
        out = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(out, "w+b", buffering=0) as file:
                _copy(blocks, file, entry, progress)
                if check is not None:
                    file.seek(0)
                    check(file)
                os.fchmod(out, 0o440)
                os.fsync(out)
            part.replace(paths.store / f"sha256-{entry.sha256}")
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_directory(paths.store)


def blocks_of(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The bytes of a file that was opened at ``path``, a block at a time. Raises MediaUnreadable."""
    while True:
        try:
            block = file.read(BLOCK)
        except OSError as error:
            raise unreadable(str(path), error) from error
        if not block:
            return
        yield block


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file that somebody named, if it is one; a pipe or a device is not waited for. Raises NotFound or OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotFound(f"{path} is not a file", "it is a directory, a pipe or a device", "Name a file")
        yield file


def _copy(blocks: Iterable[bytes], file: BinaryIO, entry: FileEntry, progress: Progress) -> None:
    digest, done = hashlib.sha256(), 0
    for block in blocks:
        done += len(block)
        if done > entry.length:
            break
        digest.update(block)
        view = memoryview(block)
        while view:
            view = view[file.write(view) :]
        progress(ProgressEvent("copy", done, entry.length, entry.path))
    if done != entry.length or digest.hexdigest() != entry.sha256:
        raise DigestMismatch(
            f"{entry.path} is not the one that was approved",
            f"it has {'more than ' if done > entry.length else ''}{min(done, entry.length)} bytes and the SHA-256"
            f" {digest.hexdigest()}, approved were {entry.length} bytes with {entry.sha256}",
            "Import the file that the approver saw, or have this one approved",
        )
