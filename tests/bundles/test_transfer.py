"""One-read copying into the store: whatever is wrong with the media or the disk, the store holds whole files only."""

import dataclasses
import errno
import os
import shutil
import subprocess

import pytest

from bundles.forge import Forge
from bundles.gguf_forge import Forge as GgufForge
from bundles.transfer_stick import Counted, Stick, failing, flip, names, sealed, stick_with
from plugsky_bundles import transfer
from plugsky_bundles.errors import (
    BlobMissing,
    DigestMismatch,
    GgufError,
    MediaUnreadable,
    NoSpace,
    PlanMismatch,
    SiteUnwritable,
    UnlistedFile,
    VerificationError,
)

MODEL = GgufForge().build()
TEXT = os.urandom(3 << 20)
FILES = {
    "models/tiny/tiny.gguf": MODEL,
    "models/tiny/LICENSE": b"Apache-2.0\n",
    "python/part.whl": TEXT,
    "policy/channel.json": b"{}",
}
CUT = {"models/tiny/tiny.gguf": (100, len(MODEL) - 100), "python/part.whl": (1 << 20, 1, (2 << 20) - 1)}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("transfer"), FILES, CUT)


@pytest.fixture
def stick(tmp_path, right):
    return stick_with(tmp_path, *right)


def test_every_file_arrives_whole_and_read_only(stick):
    digests = stick.apply()
    assert stick.stored() == FILES
    assert set(digests) == set(transfer.held(stick.store))
    assert {file.stat().st_mode & 0o777 for file in stick.store.iterdir()} == {0o440}
    assert names(stick.staging) == []


def test_each_byte_of_the_media_is_read_once(stick, monkeypatch):
    counted = Counted(monkeypatch)
    stick.apply()
    assert counted.of_blobs() == {blob.sha256: blob.length for path in FILES for blob in stick.entry(path).blobs}


def test_progress_ends_at_the_total(stick):
    heard = []
    stick.apply(progress=heard.append)
    copied = [event for event in heard if event.stage == "copy"]
    assert copied[-1].done == copied[-1].total == sum(map(len, FILES.values()))
    assert {event.stage for event in heard} == {"copy", "flush"}


def test_a_second_transfer_copies_nothing(stick):
    stick.apply()
    stick.verify()
    assert stick.plan.copied == ()
    assert stick.apply() == ()


DAMAGE = {
    "the first byte of a blob": (lambda s: flip(s.blobs("python/part.whl")[0], 0), DigestMismatch, "was changed"),
    "the last byte of the last chunk": (lambda s: flip(s.blobs("python/part.whl")[2], -1), DigestMismatch, "changed"),
    "a one-byte chunk": (lambda s: flip(s.blobs("python/part.whl")[1], 0), DigestMismatch, "was changed"),
    "a whole small file": (lambda s: flip(s.blobs("policy/channel.json")[0], 0), DigestMismatch, "was changed"),
    "a byte too few": (lambda s: os.truncate(s.blobs("python/part.whl")[0], 1000), DigestMismatch, "wrong length"),
    "a byte too many": (
        lambda s: os.truncate(s.blobs("python/part.whl")[0], (1 << 20) + 1),
        DigestMismatch,
        "wrong length",
    ),
    "a blob taken away": (lambda s: s.blobs("models/tiny/tiny.gguf")[1].unlink(), BlobMissing, "is missing"),
    "a link in a blob's place": (
        lambda s: (s.blobs("python/part.whl")[0].unlink(), s.blobs("python/part.whl")[0].symlink_to("/etc/hostname")),
        UnlistedFile,
        "cannot be opened",
    ),
    "a device in a blob's place": (
        lambda s: (s.blobs("python/part.whl")[0].unlink(), os.mkfifo(s.blobs("python/part.whl")[0])),
        UnlistedFile,
        "not a file",
    ),
    "a directory swapped for a link": (
        lambda s: (
            shutil.move(s.blobs("python/part.whl")[0].parent, s.path.parent / "elsewhere"),
            s.blobs("python/part.whl")[0].parent.symlink_to(s.path.parent / "elsewhere"),
        ),
        UnlistedFile,
        "cannot be opened",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_between_verification_and_copy_is_refused_and_leaves_nothing(stick, name):
    damage, error, reason = DAMAGE[name]
    damage(stick)
    with pytest.raises(error, match=reason) as caught:
        stick.apply()
    assert isinstance(caught.value, VerificationError)
    assert caught.value.exit_code == 5
    assert names(stick.store) == []
    assert names(stick.staging) == []


def test_what_the_store_held_before_a_refusal_stays(stick):
    stick.apply()
    before = {path: data for path, data in stick.stored().items() if path != "python/part.whl"}
    (stick.store / f"sha256-{stick.verified.entries['python/part.whl'].sha256}").unlink()
    stick.verify()
    flip(stick.blobs("python/part.whl")[0], 5)
    with pytest.raises(DigestMismatch):
        stick.apply()
    assert stick.stored() == before


def test_a_signed_model_that_is_not_a_gguf_never_reaches_the_store(tmp_path):
    forge = Forge(tmp_path)
    stick = Stick(tmp_path, forge, forge.sealed(files={"models/small/small.gguf": b"GGUF" + bytes(5000)}))
    with pytest.raises(GgufError) as caught:
        stick.apply()
    assert caught.value.exit_code == 5
    assert names(stick.store) == names(stick.staging) == []


def test_the_plan_of_another_bundle_is_refused(stick):
    stick.plan = dataclasses.replace(stick.plan, bundle_id="0" * 64)
    with pytest.raises(PlanMismatch):
        stick.apply()


@pytest.mark.parametrize("at", range(5))
def test_a_disk_that_fills_up_is_refused_and_left_as_it_was(stick, monkeypatch, at):
    failing(monkeypatch, "pwrite", errno.ENOSPC, at)
    with pytest.raises(NoSpace) as caught:
        stick.apply()
    monkeypatch.undo()
    assert caught.value.exit_code == 1
    assert names(stick.store) == names(stick.staging) == []
    stick.apply()
    assert stick.stored() == FILES


@pytest.mark.parametrize(("call", "at"), [("pwrite", 1), ("fchmod", 1), ("ftruncate", 0)])
def test_a_disk_that_refuses_to_write_is_named_and_nothing_partial_is_stored(stick, monkeypatch, call, at):
    if call == "ftruncate":
        stick.staging.mkdir(parents=True)
        (stick.staging / f"sha256-{stick.entry('policy/channel.json').sha256}.part").touch()
    failing(monkeypatch, call, errno.EIO, at)
    with pytest.raises(SiteUnwritable, match="Input/output error"):
        stick.apply()
    monkeypatch.undo()
    assert names(stick.store) == []
    stick.apply()
    assert stick.stored() == FILES


def test_media_that_cannot_be_read_keeps_finished_files_for_the_next_try(stick, monkeypatch):
    failing(monkeypatch, "preadv", errno.EIO, 3)
    with pytest.raises(MediaUnreadable):
        stick.apply()
    monkeypatch.undo()
    kept = transfer.held(stick.staging)
    assert kept
    assert names(stick.store) == []
    for path, entry in stick.verified.entries.items():
        if entry.sha256 in kept:
            for blob in stick.blobs(path):
                blob.unlink(missing_ok=True)
    stick.apply()
    assert stick.stored() == FILES


def test_a_staged_file_is_believed_only_after_it_was_hashed_again(stick):
    entry = stick.verified.entries["python/part.whl"]
    stick.staging.mkdir(parents=True)
    (stick.staging / f"sha256-{entry.sha256}").write_bytes(bytes(entry.length))
    stick.apply()
    assert stick.stored() == FILES


@pytest.mark.integration
@pytest.mark.parametrize("moment", [0, 1, 3, 5])
def test_a_transfer_killed_midway_is_completed_by_the_next_one(stick, moment):
    stick.killed(moment)
    assert names(stick.store) == []
    stick.apply()
    assert stick.stored() == FILES
    assert names(stick.staging) == []


@pytest.mark.integration
def test_a_file_system_that_is_really_full_is_refused_and_left_as_it_was(stick, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        stick.store, stick.staging = small / "store", small / "staging"
        with pytest.raises(NoSpace, match=rf"the disk is full: .* of 2\.1 MB are left on {small}"):
            stick.apply()
        assert names(stick.store) == names(stick.staging) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
