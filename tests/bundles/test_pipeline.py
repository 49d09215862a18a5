"""The copying core with made-up sources and sinks, and its way around the page cache against a plain file."""

import hashlib
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugsky_bundles.errors import BundleError, DigestMismatch, MediaUnreadable
from plugsky_bundles.format import Chunk
from plugsky_bundles.pipeline import BLOCK, BLOCKS, Pipeline
from plugsky_bundles.uncached import PAGE, SMALL, FileReader, FileWriter


@dataclass
class Made:
    """An origin of given bytes, in pieces of at most `piece`."""

    data: bytes
    local: bool = False
    placed: bool = False
    piece: int = BLOCK
    fails: bool = False
    at: int = 0
    reads: int = field(default=0)

    @contextmanager
    def open(self):
        self.at = 0
        yield self

    def readinto(self, view):
        self.reads += 1
        if self.fails:
            raise OSError(5, "Input/output error")
        piece = self.data[self.at : self.at + min(self.piece, len(view))]
        view[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def wrong(self, found) -> BundleError:
        return DigestMismatch("wrong", found, "")

    def short(self, left) -> BundleError:
        return DigestMismatch("short", str(left), "")

    def unreadable(self, error) -> BundleError:
        return MediaUnreadable("unreadable", str(error), "")

    @property
    def chunk(self) -> Chunk:
        return Chunk(hashlib.sha256(self.data).hexdigest(), len(self.data))


class Kept:
    """A sink in memory."""

    def __init__(self, length: int, fails_at: int | None = None) -> None:
        self.data, self.fails_at = bytearray(length), fails_at

    def write(self, view, at) -> None:
        if self.fails_at is not None and at >= self.fails_at:
            raise OSError(28, "No space left on device")
        self.data[at : at + len(view)] = view

    def flush(self) -> None:
        pass


def pipeline(*, threads: bool) -> Pipeline:
    made = Pipeline()
    made.thread(length=BLOCK + 1 if threads else 0)
    return made


def take_all(lanes: Pipeline, origins: list[Made], sink: Kept | None = None) -> None:
    for origin in origins:
        lanes.take(origin, origin.chunk, (), sink)
    lanes.settle()


BIG = os.urandom(3 * BLOCK + 12345)


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("piece", [BLOCK, 70_001])
def test_what_comes_in_goes_out_and_is_hashed_twice(threads, piece):
    sink, whole = Kept(len(BIG) + 3), hashlib.sha256(b"abc")
    origin = Made(BIG, piece=piece)
    with pipeline(threads=threads) as lanes:
        lanes.take(origin, origin.chunk, (whole,), sink, 3)
        lanes.settle()
    assert sink.data[3:] == BIG
    assert whole.digest() == hashlib.sha256(b"abc" + BIG).digest()


def test_a_wrong_chunk_is_told_before_many_more_blocks_are_read():
    wrong = Made(BIG)
    following = [Made(os.urandom(BLOCK)) for _ in range(3 * BLOCKS)]
    with pipeline(threads=True) as lanes:
        lanes.take(wrong, Chunk("0" * 64, len(BIG)))
        with pytest.raises(DigestMismatch, match="wrong"):
            take_all(lanes, following)
    assert sum(origin.reads for origin in following) <= BLOCKS


def test_a_wrong_local_chunk_is_told_at_once():
    with pipeline(threads=True) as lanes, pytest.raises(DigestMismatch, match="wrong"):
        lanes.take(Made(BIG, local=True), Chunk("0" * 64, len(BIG)))


@pytest.mark.parametrize("threads", [True, False])
def test_bytes_that_were_read_in_vain_are_taken_back_from_the_count(threads):
    counted = []
    with Pipeline(counted.append) as lanes:
        lanes.thread(length=BLOCK + 1 if threads else 0)
        with pytest.raises(DigestMismatch):
            lanes.take(Made(BIG, local=True), Chunk("0" * 64, len(BIG)))
    assert sum(counted) == 0
    assert len(counted) > 1


def test_a_source_that_ends_early_or_fails_is_told_in_its_own_words():
    with pipeline(threads=True) as lanes:
        with pytest.raises(DigestMismatch, match="short: 7"):
            lanes.take(Made(BIG), Chunk("0" * 64, len(BIG) + 7))
        with pytest.raises(MediaUnreadable):
            lanes.take(Made(BIG, fails=True), Chunk("0" * 64, len(BIG)))


@pytest.mark.parametrize("threads", [True, False])
def test_a_sink_that_fails_is_told_as_it_failed(threads):
    origin = Made(BIG)
    with pipeline(threads=threads) as lanes, pytest.raises(OSError, match="No space"):
        take_all(lanes, [origin], Kept(len(BIG), fails_at=BLOCK))


def test_what_is_placed_already_is_hashed_and_not_written():
    sink, origin = Kept(len(BIG)), Made(BIG, local=True, placed=True)
    with pipeline(threads=True) as lanes:
        lanes.take(origin, origin.chunk, (), sink)
    assert not any(sink.data)


def test_no_thread_is_left_and_none_is_started_for_little():
    before = threading.active_count()
    origin = Made(b"little")
    with pipeline(threads=False) as lanes:
        lanes.take(origin, origin.chunk)
        assert threading.active_count() == before
    with pipeline(threads=True) as lanes:
        lanes.take(origin, origin.chunk)
        lanes.settle()
    assert threading.active_count() == before


STREAM = """
import hashlib, resource, sys
from contextlib import contextmanager
from plugsky_bundles.format import Chunk, MIB
from plugsky_bundles.pipeline import Pipeline
class Zeros:
    local = placed = False
    @contextmanager
    def open(self):
        yield self
    def readinto(self, view):
        return len(view)
class Nowhere:
    def write(self, view, at): pass
    def flush(self): pass
chunk = Chunk(hashlib.sha256(bytes(64 * MIB)).hexdigest(), 64 * MIB)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Pipeline() as lanes:
    lanes.thread(length=chunk.length)
    for number in range(int(sys.argv[1])):
        lanes.take(Zeros(), chunk, (hashlib.sha256(),), Nowhere(), number * chunk.length)
    lanes.settle()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.integration
def test_memory_does_not_grow_with_the_stream():
    def grown_kib(chunks: int) -> int:
        done = subprocess.run([sys.executable, "-c", STREAM, str(chunks)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert grown_kib(8) - grown_kib(1) < 1024


@given(
    st.lists(
        st.tuples(st.sampled_from((1, 31, PAGE - 1, PAGE, PAGE + 1, SMALL, 2 * PAGE)), st.booleans(), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_file_written_in_any_pieces_with_any_gaps_holds_what_was_written(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("written") / "file"
    length = 1 + SMALL + sum(size for size, _, _ in pieces)
    expected = bytearray(length)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(descriptor, length)
        with FileWriter(path, descriptor, length) as sink:
            at = 0
            for number, (size, written, flushed) in enumerate(pieces):
                if written:
                    data = bytes([number % 255 + 1]) * size
                    expected[at : at + size] = data
                    sink.write(memoryview(data), at)
                if flushed:
                    sink.flush()
                at += size
            sink.flush()
    finally:
        os.close(descriptor)
    assert path.read_bytes() == expected


@pytest.mark.parametrize("offset", [0, 1, PAGE, 3 * PAGE + 5])
@pytest.mark.parametrize("length", [0, 1, SMALL, SMALL + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("cached", [True, False])
def test_a_file_is_read_exactly_wherever_it_begins_and_ends(tmp_path, offset, length, cached):
    data = os.urandom(4 * BLOCK)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        if not cached:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        source, found = FileReader(file.fileno(), length, offset), b""
        with Pipeline() as lanes:
            view = lanes._blocks[0].view
            while count := source.readinto(view):
                found += bytes(view[:count])
    assert found == data[offset : offset + length]


def test_a_file_that_is_shorter_than_announced_ends_where_it_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(SMALL + 10))
    with path.open("rb", buffering=0) as file, Pipeline() as lanes:
        source, view = FileReader(file.fileno(), 4 * SMALL), lanes._blocks[0].view
        assert sum(iter(lambda: source.readinto(view), 0)) == SMALL + 10
