"""One read of a file that is cut into chunks: while a block is hashed and written, the next one is read.

Three lanes, a thread each, work on every block: the SHA-256 of its chunk, that of the whole file, and the blob. Hashing
and system calls let go of Python's global lock, and two hashes of the same bytes take longer than all the rest, so each
has a core where there is one. What fits into one block is done without threads.

Guarantees:
* memory is `BLOCKS` blocks of `BLOCK` bytes, and each lane sees the blocks in order; blocks are filled wherever chunks
  begin and end, so that a file is read in whole pages;
* a blob is finished, under the name that its bytes give it, only after all of it was hashed and written;
* what a lane raises is raised in the caller; leaving the `with` waits for the lanes and abandons what is not finished.

Digests are found here, not compared: in that it differs from `plugsky_bundles.pipeline`, whose chunks have names.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

from plugsky_bundles.format import Chunk
from plugsky_bundles.pipeline import BLOCK, BLOCKS, Reader

Result = TypeVar("Result")


class Hasher(Protocol):
    """A SHA-256 in the making."""

    def update(self, data: memoryview, /) -> None: ...


class Blob(Protocol):
    """Takes the bytes of a chunk, and its name in the end."""

    def write(self, view: memoryview, at: int, /) -> None: ...

    def finish(self, chunk: Chunk, /) -> None: ...

    def abandon(self) -> None: ...


class Lanes:
    """Use it in a `with`, for the `length` bytes that `file` gives; `moved` hears how many more of them were taken."""

    def __init__(self, file: Reader, length: int, moved: Callable[[int], None]) -> None:
        self._file, self._moved = file, moved
        threads = ("chunks", "files", "blobs") if length > BLOCK else ()
        self._pools = {name: ThreadPoolExecutor(1, name) for name in threads}
        self._blocks = deque(_Block() for _ in range(BLOCKS if threads else 1))
        self._rest = memoryview(b"")
        self._open: list[Blob] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
        for blob in self._open:
            blob.abandon()

    def take(self, length: int, whole: Hasher | None, blob: Blob | None) -> Future[Chunk]:
        """Take the next `length` bytes of the file, fewer only at its end; the chunk that they are comes later."""
        if blob is not None:
            self._open.append(blob)
        digest, left = hashlib.sha256(), length
        hashed: Future[None] = _now(lambda: None)
        while left:
            if not self._rest:
                self._rest = self._read()
            view, self._rest = self._rest[:left], self._rest[left:]
            if not view:
                break
            block = self._blocks[-1]
            hashed = self._do("chunks", block, partial(digest.update, view))
            if whole is not None:
                self._do("files", block, partial(whole.update, view))
            if blob is not None:
                self._do("blobs", block, partial(blob.write, view, length - left))
            left -= len(view)
            self._moved(len(view))

        def end() -> Chunk:
            hashed.result()
            chunk = Chunk(digest.hexdigest(), length - left)
            if blob is not None:
                blob.finish(chunk)
                self._open.remove(blob)
            return chunk

        return self._submit("blobs", end)

    def settle(self) -> None:
        """Wait until every lane stands still; raises what one of them raised."""
        for block in self._blocks:
            block.settle()

    def _read(self) -> memoryview:
        """Fill the block that was filled longest ago, once every lane is done with it; it is the last one then."""
        block = self._blocks[0]
        self._blocks.rotate(-1)
        block.settle()
        return block.view[: self._file.readinto(block.view)]

    def _do(self, lane: str, block: _Block, work: Callable[[], None]) -> Future[None]:
        future = self._submit(lane, work)
        block.pending.append(future)
        return future

    def _submit(self, lane: str, work: Callable[[], Result]) -> Future[Result]:
        return self._pools[lane].submit(work) if self._pools else _now(work)


class _Block:
    """Memory of whole pages, as writing around the page cache wants it, and who is not done with it."""

    __slots__ = ("pending", "view")

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, BLOCK))
        self.pending: list[Future[None]] = []

    def settle(self) -> None:
        pending, self.pending = self.pending, []
        wait(pending)
        for done in pending:
            done.result()


def _now(work: Callable[[], Result]) -> Future[Result]:
    """What `work` gives, without a thread."""
    future: Future[Result] = Future()
    future.set_result(work())
    return future
