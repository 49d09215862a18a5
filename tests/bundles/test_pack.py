"""Packing: whatever the cuts, a bundle gets the right blobs, and the file is read in whole pages."""

import hashlib
import os

import pytest

from plugsky_builder.lanes import Lanes
from plugsky_builder.pack import Material, Packer
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import Chunk, FileEntry, blob_path
from plugsky_bundles.pipeline import BLOCK, BLOCKS
from plugsky_bundles.uncached import PAGE, FileReader, FileWriter

DATA = os.urandom(3 * BLOCK + 77)
CUTS = {
    "one chunk": [],
    "chunks of whole blocks": [BLOCK, BLOCK, BLOCK, 77],
    "chunks that begin anywhere": [5, 12345, 3 * BLOCK - 12350, 77],
    "many chunks in one block": [PAGE + 1] * 100 + [3 * BLOCK + 77 - 100 * (PAGE + 1)],
}


@pytest.fixture
def material(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return Material("models/a/file", path, len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def entry_of(material, lengths):
    """The entry of a file that is cut so; of another file, so that it is hashed as a whole too."""
    return FileEntry(material.path, material.length, "0" * 64, tuple(Chunk("0" * 64, length) for length in lengths))


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("cached", [True, False])
def test_wherever_a_file_is_cut_its_blobs_together_are_the_file(material, root, cuts, cached):
    if not cached:
        with material.open() as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    heard = []
    entry = Packer(root, lambda done, _: heard.append(done)).add(material, entry_of(material, cuts))
    assert [chunk.length for chunk in entry.chunks] == cuts
    blobs = [(root / blob_path(blob.sha256)).read_bytes() for blob in entry.blobs]
    assert b"".join(blobs) == DATA
    assert [hashlib.sha256(blob).hexdigest() for blob in blobs] == [blob.sha256 for blob in entry.blobs]
    assert heard[-1] == len(DATA)


def test_only_what_is_missing_is_written_from_the_middle_of_a_file(material, root):
    packer = Packer(root, lambda *_: None)
    entry = packer.survey(material, entry_of(material, [1000, BLOCK + 1, 2 * BLOCK - 924]))
    assert not list(root.iterdir())
    first, second, third = entry.chunks
    packer.add_missing(material, entry, {first.sha256, third.sha256})
    [blob] = (path for path in root.rglob("*") if path.is_file())
    assert blob == root / blob_path(second.sha256)
    assert blob.read_bytes() == DATA[1000 : 1001 + BLOCK]


def test_a_file_that_has_grown_is_refused(material, root):
    with material.content.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DigestMismatch, match="is longer"):
        Packer(root, lambda *_: None).add(material)


def test_a_file_that_has_shrunk_is_refused(material, root):
    os.truncate(material.content, BLOCK)
    with pytest.raises(DigestMismatch, match="not what the recipe pins"):
        Packer(root, lambda *_: None).add(material)


def test_a_file_is_read_in_whole_blocks_however_it_is_cut():
    reads = []

    class File:
        def readinto(self, view):
            reads.append(len(view))
            return len(view) if len(reads) <= 2 * BLOCKS else 0

    total = 2 * BLOCKS * BLOCK
    with Lanes(File(), total, lambda _: None) as lanes:
        taken = [lanes.take(length, None, None) for length in (1, PAGE - 7, total - PAGE + 6)]
        assert sum(chunk.result().length for chunk in taken) == total
    assert reads == [BLOCK] * 2 * BLOCKS


def test_pages_that_lie_anywhere_in_memory_are_still_written_around_the_page_cache(tmp_path):
    path = tmp_path / "file"
    memory = memoryview(bytearray(DATA))
    with path.open("wb", buffering=0) as file, FileWriter(path, file.fileno(), len(DATA)) as sink:
        if sink._direct is None:
            pytest.skip("this file system cannot write around the page cache")
        for begin in range(0, len(DATA), BLOCK - 3):
            sink.write(memory[begin : begin + BLOCK - 3], begin)
        sink.flush()
        assert sink._direct is not None
    assert path.read_bytes() == DATA


def test_a_look_at_the_beginning_of_a_file_does_not_make_it_cached(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(PAGE)
    for _ in range(2):
        with path.open("rb", buffering=0) as file, Lanes(FileReader(file.fileno(), len(DATA)), len(DATA), id) as lanes:
            assert lanes.take(len(DATA), None, None).result() == Chunk(hashlib.sha256(DATA).hexdigest(), len(DATA))
            assert not lanes._file._cached, "nor does a read around the page cache"
