"""Files on their way into a store: how they lie in staging, and what an interrupted transfer can go on from.

`sha256-<hex>.part` is being written, or was when something ended it: any of its bytes may be right. `sha256-<hex>` was
right as a whole when it got that name. Either is believed only after its bytes were hashed again, chunk by chunk; what
is right of it is not read from the media a second time. Anything else in staging is left from something else.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_bundles.linux_calls import reserve
from plugsky_bundles.pipeline import BLOCK
from plugsky_bundles.store_index import stored_path

_STAGED: Final = re.compile(r"sha256-([0-9a-f]{64})(?:\.part|\.chunks)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """A file being written; `begun` when an earlier transfer left something of it."""

    path: Path
    descriptor: int
    begun: bool

    def has_data(self, offset: int, length: int) -> bool:
        """Whether anything was ever written to these bytes: what was only reserved reads as zeros."""
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_DATA) < offset + length
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False


def is_staged(name: str) -> bool:
    """Whether a file of that name in staging is one that a transfer can go on from."""
    return _STAGED.fullmatch(name) is not None


def allocated(staging: Path) -> dict[str, int]:
    """How many bytes of disk each digest has in staging already."""
    found: dict[str, int] = {}
    for path in staging.iterdir() if staging.is_dir() else ():
        if match := _STAGED.fullmatch(path.name):
            known = path.lstat()
            found[match[1]] = found.get(match[1], 0) + min(known.st_blocks * 512, known.st_size)
    return found


def clear(staging: Path, keep: Collection[str] = ()) -> None:
    """Remove what transfers leave in staging, save the files of the digests in `keep`."""
    for path in staging.iterdir() if staging.is_dir() else ():
        match = _STAGED.fullmatch(path.name)
        if match is not None and match[1] not in keep:
            path.unlink()


def own(staging: Path) -> None:
    """Make staging a directory that nobody else can write to, whatever was put in its place. Raises OSError."""
    if staging.is_symlink():
        staging.unlink()
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging.chmod(0o700)


@contextmanager
def part_of(staging: Path, digest: str, length: int) -> Iterator[Part]:
    """The part of a file of `length` bytes, with room for all of them. It stays whatever happens. Raises OSError."""
    finished, path = stored_path(staging, digest), staging / f"sha256-{digest}.part"
    if _kept(finished):
        finished.chmod(0o600)
        finished.replace(path)
    begun = _kept(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if begun:
            os.ftruncate(descriptor, length)
        if length > BLOCK:
            reserve(descriptor, length)
        yield Part(path, descriptor, begun)
    finally:
        os.close(descriptor)


def _kept(path: Path) -> bool:
    """Whether a file is there to go on from; anything else by its name is removed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISREG(mode):
        return True
    path.unlink()
    return False
