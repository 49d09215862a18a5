"""The full read: every byte, each blob once however many files share it, and every file's own digest."""

import os
from collections import Counter

import pytest

from bundles import forge as forging
from bundles.forge import NOW, sha256
from bundles.transfer_stick import Counted
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import Chunk, FileEntry
from plugsky_bundles.full_read import _File, reading_order, verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.verify import verify_metadata

ORDERS = {
    "one file": ("abc",),
    "nothing shared": ("abc", "de", "f"),
    "a shared body under two heads": ("axyz", "bxyz"),
    "a body shared by three, one alone": ("axyz", "bxyz", "xyz", "c"),
    "a file inside another": ("abcd", "bc"),
    "the same blobs in steps": ("ab", "bc", "cd"),
}


def files_of(*blobs: str) -> list[_File]:
    """Files of one-letter blobs."""
    chunks = [tuple(Chunk(sha256(letter.encode()), 1) for letter in letters) for letters in blobs]
    return [_File(FileEntry(f"models/{n}", len(c), "0" * 64, c), c, None) for n, c in enumerate(chunks)]


def told(files: list[_File]) -> tuple[str, list[str]]:
    """The letters in the order in which they are read, and what each file has been given."""
    letters = {sha256(bytes([code])): chr(code) for code in range(256)}
    order, given = "", {id(file): "" for file in files}
    for blob, readers in reading_order(files):
        order += letters[blob.sha256]
        for file in readers:
            given[id(file)] += letters[blob.sha256]
    return order, list(given.values())


@pytest.mark.parametrize("blobs", ORDERS.values(), ids=ORDERS)
def test_every_blob_is_read_once_and_every_file_gets_its_blobs_in_order(blobs):
    order, given = told(files_of(*blobs))
    assert given == list(blobs)
    assert set(Counter(order).values()) == {1}


def test_where_nothing_is_shared_the_order_is_that_of_the_media():
    assert told(files_of("abc", "de", "f"))[0] == "abcdef"


@pytest.mark.parametrize(("blobs", "reads"), [(("ab", "ba"), 3), (("aba",), 3), (("abc", "cba"), 5)])
def test_blobs_in_another_order_or_twice_are_read_again_and_only_those(blobs, reads):
    order, given = told(files_of(*blobs))
    assert given == list(blobs)
    assert len(order) == reads


HEADS, BODY = (os.urandom(5000), os.urandom(7000)), os.urandom(200_000)
FILES = {f"models/m{n}/m.bin": head + BODY for n, head in enumerate(HEADS)} | {"models/m2/body.bin": BODY}


def verified(forge, monkeypatch, **files):
    monkeypatch.setattr(forging, "CUT", {path: (len(data) - len(BODY), len(BODY)) for path, data in FILES.items()})
    monkeypatch.setitem(forging.CUT, "models/m2/body.bin", ())
    return verify_metadata(open_bundle(forge.sealed(files=FILES | files)), forge.fingerprint, now=NOW)


def test_shared_blobs_are_read_from_the_media_once(forge, monkeypatch):
    bundle = verified(forge, monkeypatch)
    counted = Counted(monkeypatch)
    assert verify_payload(bundle) == ()
    assert counted.of_blobs() == {sha256(data): len(data) for data in (*HEADS, BODY)}


def test_a_file_whose_right_chunks_are_in_the_wrong_order_is_refused(forge, monkeypatch):
    real = forging.put_file

    def swapped(bundle, path, data, lengths=()):
        entry = real(bundle, path, data, lengths)
        return FileEntry(path, entry.length, entry.sha256, entry.chunks[::-1]) if path == "models/m1/m.bin" else entry

    monkeypatch.setattr(forging, "put_file", swapped)
    with pytest.raises(DigestMismatch, match=r"models/m1/m\.bin does not fit together"):
        verify_payload(verified(forge, monkeypatch))
