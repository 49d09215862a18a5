"""Reading and writing files around the page cache, where that is possible, and through it otherwise.

Copying through the page cache costs more time of the cores than hashing does, and pushes out what others had in it. So
whole pages go directly between memory and disk (`O_DIRECT`, open(2)). What decides, in order:
* bytes that are in the page cache already are taken from there: a stick that was just verified is not read again. The
  page in the middle decides, for the first ones of a file are often there from a look at what it is;
* a file system that refuses direct access, at opening or later (EINVAL), is used through the page cache, and what was
  read or written there is given up at once (`POSIX_FADV_DONTNEED` also begins writing it back);
* bytes that do not fill a page, at the ends of what is written in one go, are written through it too. They never share
  a page with bytes that are written directly before a `flush`.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from plugsky_bundles.format import MIB
from plugsky_bundles.pipeline import BLOCK, Reader

PAGE: Final = 4096
SMALL: Final = 16 * PAGE
"""Bytes below which it is not worth the while."""
_DROP: Final = 16 * MIB


class FileReader:
    """Reads `length` bytes of an open file from `offset` on; fewer come only when the file is shorter.

    Directly only from offsets that are whole pages.
    """

    def __init__(self, descriptor: int, length: int, offset: int = 0) -> None:
        self._descriptor = descriptor
        self._at, self._end = offset, offset + length
        self._cached = self._direct = False
        self._first = length > SMALL and offset % PAGE == 0
        self._asked: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return os.fstat(self._descriptor).st_size

    def readinto(self, view: memoryview, /) -> int:
        left = self._end - self._at
        if self._first:
            self._first = False
            self._look(view[:PAGE])
        try:
            wanted = _up(left) if self._direct else left
            count = min(left, os.preadv(self._descriptor, [view[:wanted]], self._at))
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            self._direct = _set_direct(self._descriptor, on=False)
            return self.readinto(view)
        if self._asked is not None:
            os.posix_fadvise(self._descriptor, self._asked, PAGE, os.POSIX_FADV_DONTNEED)
            self._asked = None
        if not self._direct and not self._cached:
            os.posix_fadvise(self._descriptor, self._at, count, os.POSIX_FADV_DONTNEED)
        self._at += count
        return count

    def _look(self, page: memoryview) -> None:
        """Whether the page cache has what is to be read; when it has not, it is gone around.

        Even a look that must not wait begins to read ahead, but for random access no more than was asked for; that page
        is given up after the next read, or the next look would find it.
        """
        middle = self._at + (self._end - self._at) // 2 // PAGE * PAGE
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        try:
            self._cached = os.preadv(self._descriptor, [page], middle, os.RWF_NOWAIT) > 0
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            self._direct = _set_direct(self._descriptor, on=True)
            self._asked = middle
        if not self._direct:
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


class StreamReader:
    """Reads `length` bytes of what can only be read forward."""

    def __init__(self, file: BufferedReader, length: int) -> None:
        self._file, self._left = file, length

    def readinto(self, view: memoryview, /) -> int:
        count = self._file.readinto(view[: self._left])
        self._left -= count
        return count


def reader(file: BufferedReader, length: int) -> Reader:
    """The reader for the first `length` bytes of `file`, which was just opened."""
    try:
        return FileReader(file.fileno(), length)
    except io.UnsupportedOperation:
        return StreamReader(file, length)


class FileWriter:
    """A `pipeline.Sink` into the file at `path`, which is open as `descriptor`.

    Bytes are collected until they fill a block, so that chunks that begin anywhere, in the file or in memory, are
    written as whole pages; only pages that lie right in both are written from where they are.
    """

    def __init__(self, path: Path, descriptor: int, length: int) -> None:
        self._plain = descriptor
        self._direct = _open_direct(path) if length > SMALL else None
        self._buffer = memoryview(mmap.mmap(-1, BLOCK)) if self._direct is not None else memoryview(b"")
        self._start = self._filled = 0
        self._dropped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._direct is not None:
            os.close(self._direct)

    def write(self, view: memoryview, at: int, /) -> None:
        if self._filled and (self._direct is None or at != self._start + self._filled):
            self.flush()
        if self._direct is None:
            self._write_through(view, at)
            return
        if not self._filled:
            head = min(-at % PAGE, len(view))
            self._write_plain(view[:head], at)
            view, at = view[head:], at + head
            count = 0 if head else self._try_direct(view[: len(view) // PAGE * PAGE], at)
            view, at = view[count:], at + count
            self._start = at
        while view:
            taken = min(len(view), BLOCK - self._filled)
            self._buffer[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]
            if self._filled == BLOCK:
                self.flush()

    def flush(self) -> None:
        """Write what was collected; the next bytes may have any offset."""
        whole = self._filled // PAGE * PAGE
        self._write_direct(self._buffer[:whole], self._start)
        self._write_plain(self._buffer[whole : self._filled], self._start + whole)
        self._start, self._filled = self._start + self._filled, 0

    def _try_direct(self, view: memoryview, at: int) -> int:
        """Write from memory that may begin anywhere; returns how much was, none when the kernel refuses that."""
        try:
            return os.pwrite(self._plain if self._direct is None else self._direct, view, at)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0

    def _write_direct(self, view: memoryview, at: int) -> None:
        while view:
            try:
                count = os.pwrite(self._plain if self._direct is None else self._direct, view, at)
            except OSError as error:
                if error.errno != errno.EINVAL or self._direct is None:
                    raise
                os.close(self._direct)
                self._direct = None
                continue
            view, at = view[count:], at + count

    def _write_plain(self, view: memoryview, at: int) -> None:
        while view:
            count = os.pwrite(self._plain, view, at)
            view, at = view[count:], at + count

    def _write_through(self, view: memoryview, at: int) -> None:
        """Through the page cache, but not to stay there: giving pages up begins their way to the disk."""
        self._write_plain(view, at)
        if at + len(view) - self._dropped >= _DROP:
            os.posix_fadvise(self._plain, 0, at + len(view), os.POSIX_FADV_DONTNEED)
            self._dropped = at + len(view)


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _set_direct(descriptor: int, *, on: bool) -> bool:
    """Switch direct access on or off; the answer is what holds then."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return on


def _up(count: int) -> int:
    return -(-count // PAGE) * PAGE
