"""Reading what was written back from the medium itself, as far as a kernel lets a program do that.

A stick that lies (worn out, or smaller than its label) gives right bytes as long as they come from the page cache. So a
file is synced, its pages are dropped, and it is read with O_DIRECT where the file system allows that. `ReadBack` says
how the bytes came, and claims no more than that:

* `direct`: with O_DIRECT, past the page cache;
* `dropped`: through the page cache, of which a probe (RWF_NOWAIT) found nothing left before the read;
* `cached`: the kernel still held them, or would not tell, or the file system lives in memory: they prove nothing about
  a medium.

What a stick keeps in a memory of its own cannot be told from here: pull it out, put it back, and verify once more.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_bundles.format import MIB

BLOCK: Final = MIB
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_NO_DIRECT: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Bytes read back, by the way they came."""

    direct: int = 0
    dropped: int = 0
    cached: int = 0

    def __add__(self, other: ReadBack) -> ReadBack:
        return ReadBack(self.direct + other.direct, self.dropped + other.dropped, self.cached + other.cached)

    @property
    def total(self) -> int:
        return self.direct + self.dropped + self.cached

    @property
    def proves_medium(self) -> bool:
        """Whether every byte came from the medium, as far as a program can tell."""
        return self.cached == 0


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What `path` lies on: the kernel's name of the type ("vfat"), and where it is mounted."""

    kind: str
    mount: Path

    @property
    def largest_file(self) -> int | None:
        """In bytes, where it is a limit that bundles can meet: FAT counts a file's length in 32 bits."""
        return (1 << 32) - 1 if self.kind in ("vfat", "msdos") else None


def file_system(path: Path, table: Path = Path("/proc/self/mountinfo")) -> FileSystem:
    """The file system under an existing `path`, by the device number in the kernel's table of mounts."""
    status = path.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    found = FileSystem("unknown", Path("/"))
    with table.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            if fields[2] == device:
                found = FileSystem(fields[fields.index("-") + 1], Path(fields[4]))
    return found


def read_back(path: Path, moved: Callable[[int], None], *, in_memory: bool = False) -> tuple[str, ReadBack]:
    """SHA-256 of a file as its medium gives it back, in hex, and how its bytes came.

    `moved` hears the bytes of each block; `in_memory` says that the file system has no medium. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if in_memory:
            digest, length = _digest(descriptor, moved)
            return digest, ReadBack(cached=length)
        if (direct := _open_direct(path, flags)) is not None:
            try:
                digest, length = _digest(direct, moved)
            finally:
                os.close(direct)
            return digest, ReadBack(direct=length)
        cached = _cached(descriptor, os.fstat(descriptor).st_size)
        digest, length = _digest(descriptor, moved)
        return digest, ReadBack(dropped=length - min(cached, length), cached=min(cached, length))
    finally:
        os.close(descriptor)


def _open_direct(path: Path, flags: int) -> int | None:
    """The file opened with O_DIRECT, or None where its file system refuses that at once or with the first read."""
    try:
        descriptor = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno in _NO_DIRECT:
            return None
        raise
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as probe:
            os.preadv(descriptor, [probe], 0)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _NO_DIRECT:
            return None
        raise
    return descriptor


def _digest(descriptor: int, moved: Callable[[int], None]) -> tuple[str, int]:
    """SHA-256 and length of an open file, in blocks aligned for O_DIRECT."""
    digest, offset, length = hashlib.sha256(), 0, os.fstat(descriptor).st_size
    with mmap.mmap(-1, BLOCK) as block, memoryview(block) as view:
        while offset < length and (count := os.preadv(descriptor, [view], offset)):
            with view[:count] as data:
                digest.update(data)
            offset += count
            moved(count)
    return digest.hexdigest(), offset


def _cached(descriptor: int, length: int) -> int:
    """How many bytes the page cache still holds, by blocks; all of them where the kernel will not tell."""
    held, byte = 0, bytearray(1)
    for offset in range(0, length, BLOCK):
        try:
            os.preadv(descriptor, [byte], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno not in _NO_DIRECT:
                raise
            return length
        held += min(BLOCK, length - offset)
    return held
