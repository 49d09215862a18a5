"""One read of a stream of chunks: while a block is hashed and written, the next one is read.

Three lanes, a thread each, work on every block: its chunk's SHA-256, the SHA-256 of the files it is part of, and the
sink. They run side by side because hashing and system calls let go of Python's global lock. Two hashes of the same
bytes are the slowest part by far (each runs at the speed of one core), so they have a lane each; reading stays in the
caller's thread. What is short is not worth a thread and is done in the caller's.

Guarantees:
* memory is `BLOCKS` blocks of `BLOCK` bytes, however long the stream is; a block is filled again only when every lane
  is done with it, and each lane sees the blocks in order;
* a chunk whose bytes do not give its digest raises the error of its origin: at once when the origin is local, else
  before `BLOCKS` more blocks are read, at the latest in `settle`;
* what a lane raises is raised in the caller; leaving the `with` waits for the lanes and drops what they had not begun.

Sources and sinks are abstract: nothing here opens a file.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self

from plugsky_bundles.errors import BundleError
from plugsky_bundles.format import MIB, Chunk

BLOCK: Final = 2 * MIB
BLOCKS: Final = 4


class Reader(Protocol):
    """Gives bytes in order: fills the beginning of `view` and says how far; 0 at the end. Raises OSError.

    `view` is whole pages of memory; what is given beyond the end of a chunk is left aside.
    """

    def readinto(self, view: memoryview, /) -> int: ...


class Sink(Protocol):
    """Takes bytes and their offset; may keep them until `flush`. Raises OSError."""

    def write(self, view: memoryview, at: int, /) -> None: ...

    def flush(self) -> None: ...


class Hasher(Protocol):
    """A SHA-256 in the making."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Origin(Protocol):
    """Where the bytes of one chunk can be read, and how to say that they could not be had there.

    `local`: on the target itself, where another origin may be tried next. `placed`: they lie in the sink already, where
    they belong, and are not written.
    """

    @property
    def local(self) -> bool: ...

    @property
    def placed(self) -> bool: ...

    def open(self) -> AbstractContextManager[Reader]: ...

    def wrong(self, found: str) -> BundleError:
        """The bytes have the SHA-256 `found`."""
        ...

    def short(self, left: int) -> BundleError:
        """The bytes end although `left` more belong to the chunk."""
        ...

    def unreadable(self, error: OSError) -> BundleError: ...


class Pipeline:
    """Use it in a `with`. `moved` hears how many more bytes were read, negative when they have to be read anew."""

    def __init__(self, moved: Callable[[int], None] = lambda _count: None) -> None:
        self._moved = moved
        self._chunks, self._files, self._sink = (ThreadPoolExecutor(1, name) for name in ("chunks", "files", "sink"))
        self._blocks = deque(_Block() for _ in range(BLOCKS))
        self._threaded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for lane in (self._chunks, self._files, self._sink):
            lane.shutdown(cancel_futures=True)

    def thread(self, *, length: int) -> None:
        """Use the lanes' threads for the `length` bytes that follow, if they are worth it."""
        self.settle()
        self._threaded = length > BLOCK

    def take(
        self, origin: Origin, chunk: Chunk, files: Sequence[Hasher] = (), sink: Sink | None = None, at: int = 0
    ) -> None:
        """Read `chunk` from `origin`, compare it with its digest, give it to `files` and, from offset `at`, to `sink`.

        Raises the origin's error, or an OSError of the sink.
        """
        if origin.local:
            self.settle()
            if sink is not None:
                sink.flush()
        digest, left, block = hashlib.sha256(), chunk.length, self._blocks[-1]
        try:
            with origin.open() as reader:
                while left:
                    block = self._next()
                    view = block.view[: min(left, _read(reader, block.view, origin))]
                    if not view:
                        raise origin.short(left)
                    self._do(self._chunks, block, partial(digest.update, view))
                    for file in files:
                        self._do(self._files, block, partial(file.update, view))
                    if sink is not None and not origin.placed:
                        self._do(self._sink, block, partial(sink.write, view, at + chunk.length - left))
                    left -= len(view)
                    self._moved(len(view))
            self._do(self._chunks, block, partial(_judge, digest, chunk, origin))
            if origin.local:
                self.settle()
        except BundleError:
            self._moved(left - chunk.length)
            raise

    def settle(self) -> None:
        """Wait until every lane stands still; raises what one of them raised."""
        waits = [pending for block in self._blocks for pending in block.pending]
        for block in self._blocks:
            block.pending = []
        _finish(waits)

    def _next(self) -> _Block:
        """The block that was filled longest ago, once every lane is done with it."""
        block = self._blocks[0]
        self._blocks.rotate(-1)
        pending, block.pending = block.pending, []
        _finish(pending)
        return block

    def _do(self, lane: ThreadPoolExecutor, block: _Block, work: Callable[[], object]) -> None:
        if self._threaded:
            block.pending.append(lane.submit(work))
        else:
            work()


class _Block:
    """Memory of whole pages, as reading and writing around the page cache wants it, and who is not done with it."""

    __slots__ = ("pending", "view")

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, BLOCK))
        self.pending: list[Future[object]] = []


def _finish(pending: Sequence[Future[object]]) -> None:
    wait(pending)
    for done in pending:
        done.result()


def _read(reader: Reader, view: memoryview, origin: Origin) -> int:
    try:
        return reader.readinto(view)
    except OSError as error:
        raise origin.unreadable(error) from error


def _judge(digest: Hasher, chunk: Chunk, origin: Origin) -> None:
    if (found := digest.hexdigest()) != chunk.sha256:
        raise origin.wrong(found)
