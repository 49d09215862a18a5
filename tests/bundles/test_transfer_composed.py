"""Bytes that need not come from the media: chunks in the store, blobs that several files share, deltas."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from bundles import forge as forging
from bundles.test_plan import FRESH
from bundles.transfer_stick import Counted, Stick, flip, names
from plugsky_bundles import transfer
from plugsky_bundles.errors import BaseMissing, DigestMismatch
from plugsky_bundles.format import Chunk, blob_path, encode_chunk_list
from plugsky_bundles.plan import plan_install
from plugsky_bundles.store_index import Place, chunks_of, list_path, site_blobs, stored_path

KIB = 1 << 10
HEAD, NEW_HEAD, BODY, TAIL = os.urandom(70 * KIB + 3), os.urandom(10 * KIB), os.urandom(300 * KIB), os.urandom(99)
OLD, NEW, TWICE = "models/a/a.bin", "models/b/b.bin", "models/c/c.bin"
FILES = {OLD: HEAD + BODY + TAIL, NEW: NEW_HEAD + BODY + TAIL, TWICE: TAIL + BODY + TAIL + BODY}
CUT = {
    OLD: (len(HEAD), len(BODY), len(TAIL)),
    NEW: (len(NEW_HEAD), len(BODY), len(TAIL)),
    TWICE: (len(TAIL), len(BODY), len(TAIL), len(BODY)),
}


class Site(Stick):
    """A stick for a site that holds something already; what it holds is known to the plan."""

    def verify(self) -> None:
        super().verify()
        self.plan = plan_install(self.verified, self.facts())

    def facts(self):
        wanted = {blob.sha256 for entry in self.verified.entries.values() for blob in entry.blobs}
        blobs = frozenset(site_blobs(self.store, wanted))
        return dataclasses.replace(FRESH, store=transfer.held(self.store), blobs=blobs)

    def leave_out(self, *digests: str) -> None:
        """Make the bundle one that does not bring these blobs."""
        for digest in digests:
            (self.path / blob_path(digest)).unlink()
        self.verified = dataclasses.replace(self.verified, absent=frozenset(digests))


@pytest.fixture(scope="module")
def bundles(forge):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forging, "CUT", CUT)
        return {
            "old": forge.sealed(files={OLD: FILES[OLD]}, name="old"),
            "new": forge.sealed(files={NEW: FILES[NEW]}, name="new"),
            "all": forge.sealed(files=FILES, name="all"),
        }


@pytest.fixture
def site(tmp_path, forge, bundles):
    """A site that holds the old file, with a stick that brings the new one."""
    old = Site(tmp_path, forge, Path(shutil.copytree(bundles["old"], tmp_path / "old")))
    old.apply()
    return Site(tmp_path, forge, Path(shutil.copytree(bundles["new"], tmp_path / "new")))


def in_store(site: Site, path: str) -> bytes:
    return stored_path(site.store, forging.sha256(FILES[path])).read_bytes()


def test_a_blob_that_files_share_or_repeat_is_read_from_the_media_once(tmp_path, forge, bundles, monkeypatch):
    site = Site(tmp_path, forge, Path(shutil.copytree(bundles["all"], tmp_path / "all")))
    distinct = {blob.sha256: blob.length for entry in site.verified.entries.values() for blob in entry.blobs}
    assert site.plan.read_bytes == sum(distinct.values()) < site.plan.write_bytes
    counted = Counted(monkeypatch)
    site.apply()
    assert counted.of_blobs() == distinct
    assert site.stored() == FILES


def test_a_new_file_is_composed_of_held_chunks_and_the_media(site, monkeypatch):
    assert site.plan.read_bytes == len(NEW_HEAD)
    assert site.plan.store_bytes == len(BODY) + len(TAIL)
    assert [file.composed for file in site.plan.files] == [len(BODY) + len(TAIL)]
    counted = Counted(monkeypatch)
    site.apply()
    assert counted.of_blobs() == {forging.sha256(NEW_HEAD): len(NEW_HEAD)}
    assert in_store(site, NEW) == FILES[NEW]


def test_a_held_chunk_with_a_wrong_byte_comes_from_the_media(site, monkeypatch):
    old = stored_path(site.store, forging.sha256(FILES[OLD]))
    old.chmod(0o640)
    flip(old, len(HEAD) + 1000)
    counted = Counted(monkeypatch)
    site.apply()
    assert counted.of_blobs() == {forging.sha256(data): len(data) for data in (NEW_HEAD, BODY)}
    assert in_store(site, NEW) == FILES[NEW]


def test_a_delta_takes_from_the_store_what_it_does_not_bring(site):
    site.leave_out(forging.sha256(BODY), forging.sha256(TAIL))
    site.plan = plan_install(site.verified, site.facts())
    site.apply()
    assert in_store(site, NEW) == FILES[NEW]


def test_a_delta_for_a_site_that_does_not_hold_its_base_is_refused_before_the_first_write(tmp_path, forge, bundles):
    site = Site(tmp_path, forge, Path(shutil.copytree(bundles["new"], tmp_path / "new")))
    site.leave_out(forging.sha256(BODY))
    with pytest.raises(BaseMissing) as caught:
        plan_install(site.verified, site.facts())
    assert caught.value.exit_code == 5
    assert not site.store.exists()


def test_a_delta_whose_base_is_damaged_here_is_refused_and_leaves_nothing(site):
    site.leave_out(forging.sha256(BODY))
    site.plan = plan_install(site.verified, site.facts())
    old = stored_path(site.store, forging.sha256(FILES[OLD]))
    old.chmod(0o640)
    flip(old, len(HEAD) + 1000)
    before = names(site.store)
    with pytest.raises(DigestMismatch, match="cannot be taken from"):
        site.apply()
    assert names(site.store) == before
    assert names(site.staging) == []


def test_the_store_index_says_where_each_chunk_lies(site):
    old = stored_path(site.store, forging.sha256(FILES[OLD]))
    wanted = {forging.sha256(data): data for data in (BODY, TAIL, NEW_HEAD, FILES[OLD])}
    found = site_blobs(site.store, wanted)
    assert found == {
        forging.sha256(BODY): Place(old, len(HEAD), len(BODY)),
        forging.sha256(TAIL): Place(old, len(HEAD) + len(BODY), len(TAIL)),
        forging.sha256(FILES[OLD]): Place(old, 0, len(FILES[OLD])),
    }
    for digest, place in found.items():
        with place.path.open("rb") as file:
            file.seek(place.offset)
            assert forging.sha256(file.read(place.length)) == digest


DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "not a list": lambda path: path.write_bytes(b"PLUGSKYC" + bytes(40)),
    "of another file": lambda path: path.write_bytes(encode_chunk_list((Chunk("0" * 64, 5),))),
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_chunk_list_is_passed_over(site, harm):
    digest = forging.sha256(FILES[OLD])
    path = list_path(site.store, digest)
    path.chmod(0o640)
    harm(path)
    assert chunks_of(site.store, digest, len(FILES[OLD])) == ()
    assert list(site_blobs(site.store, {forging.sha256(BODY), digest})) == [digest]
    site.verify()
    site.apply()
    assert in_store(site, NEW) == FILES[NEW]
