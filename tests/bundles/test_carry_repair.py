"""Repairing a copy: only what is wrong is taken from another copy, which may be damaged elsewhere."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.carriage import FILES, Carriage, flip, tree
from plugsky_bundles import carrying, mending
from plugsky_bundles.carrying import SEAL
from plugsky_bundles.errors import BundleError, NotFound, NotRepaired, UnlistedFile, VerificationError
from plugsky_bundles.format import blob_path
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Carriage(tmp_path_factory.mktemp("repair"))


@pytest.fixture
def bad(made, tmp_path):
    return Path(shutil.copytree(made.path, tmp_path / "bad"))


@pytest.fixture
def good(made, tmp_path):
    return Path(shutil.copytree(made.path, tmp_path / "good"))


def repair(made, bad, good, **options):
    return mending.repair(bad, good, made.verify, **options)


BLOB = "models/tiny/tiny.gguf"


def blob(made, copy: Path, number: int = 1) -> Path:
    return copy / made.blob_of(BLOB, number)


HARM = {
    "a changed byte": lambda made, bad: flip(blob(made, bad), 777),
    "a byte too few": lambda made, bad: os.truncate(blob(made, bad), 99_999),
    "an empty blob": lambda made, bad: os.truncate(blob(made, bad), 0),
    "a byte too many": lambda made, bad: os.truncate(blob(made, bad), 100_001),
    "a missing blob": lambda made, bad: blob(made, bad).unlink(),
    "a missing directory": lambda made, bad: shutil.rmtree(blob(made, bad).parent),
    "all blobs missing": lambda _, bad: shutil.rmtree(bad / "blobs"),
    "a link in a blob's place": lambda made, bad: (blob(made, bad).unlink(), blob(made, bad).symlink_to("/etc/passwd")),
    "a fifo in a blob's place": lambda made, bad: (blob(made, bad).unlink(), os.mkfifo(blob(made, bad))),
    "a link in a directory's place": lambda _, bad: (
        shutil.rmtree(bad / "blobs"),
        (bad / "blobs").symlink_to(bad.parent),
    ),
    "a changed chunk list": lambda made, bad: flip(bad / _chunk_list(made), 20),
    "a lost chunk list": lambda made, bad: (bad / _chunk_list(made)).unlink(),
    "changed evidence": lambda _, bad: flip(bad / "evidence/custody.jsonl", 100),
    "a lost readme": lambda _, bad: (bad / "README.txt").unlink(),
    "a changed role file": lambda _, bad: flip(bad / "metadata/1.models.json", 60),
    "a lost snapshot": lambda _, bad: (bad / "metadata/1.snapshot.json").unlink(),
    "a changed timestamp": lambda _, bad: flip(bad / SEAL, 60),
    "a lost timestamp": lambda _, bad: (bad / SEAL).unlink(),
    "a changed root": lambda _, bad: flip(bad / "metadata/1.root.json", 90),
    "an empty role file": lambda _, bad: os.truncate(bad / "metadata/1.python.json", 0),
    "many things": lambda made, bad: [harm(made, bad) for harm in (
        HARM["a changed byte"], HARM["a lost readme"], HARM["a changed role file"], HARM["a lost timestamp"],
        HARM["a lost chunk list"])],
}  # fmt: skip


def _chunk_list(made) -> str:
    return blob_path(next(iter(made.verified.lists.values())).sha256)


def read_all(made, copy: Path) -> None:
    verify_payload(made.verify(open_bundle(copy)))


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_copy_becomes_whole_again(made, bad, good, harm):
    HARM[harm](made, bad)
    with pytest.raises(BundleError):
        read_all(made, bad)
    untouched = {path: path.stat().st_ino for path in bad.rglob("*") if path.is_file() and not path.is_symlink()}
    done = repair(made, bad, good)
    assert tree(bad) == tree(made.path)
    assert not any(path.is_symlink() for path in bad.rglob("*"))
    assert done.bundle_id == made.verified.bundle_id
    mended = {what.split(" ")[0] for what in done.mended}
    assert mended
    after = {path: path.stat().st_ino for path in untouched}
    assert {str(p.relative_to(bad)) for p in untouched if after[p] != untouched[p]} <= mended


def test_a_whole_copy_is_left_alone(made, bad, good):
    before = {path: path.stat().st_mtime_ns for path in bad.rglob("*")}
    assert repair(made, bad, good).mended == ()
    assert before == {path: path.stat().st_mtime_ns for path in bad.rglob("*")}


def test_only_the_damaged_chunk_is_read_from_the_other_copy(made, bad, good, monkeypatch):
    flip(blob(made, bad))
    real, opened = mending.Directory.open, []

    def watched(self, name):
        if self.path == good:
            opened.append(name)
        return real(self, name)

    monkeypatch.setattr(mending.Directory, "open", watched)
    repair(made, bad, good)
    assert [name for name in opened if name.startswith("blobs/")] == [made.blob_of(BLOB, 1)]


def test_the_other_copy_may_be_damaged_elsewhere_and_is_not_changed(made, bad, good):
    flip(blob(made, bad, 0))
    flip(bad / "metadata/1.models.json", 9)
    flip(blob(made, good, 1))
    flip(good / "metadata/1.python.json", 9)
    flip(good / SEAL, 9)
    (good / "extra.txt").write_text("x")
    before = tree(good)
    repair(made, bad, good)
    assert tree(bad) == tree(made.path)
    assert tree(good) == before
    repair(made, good, bad, remove_unlisted=True)
    assert tree(good) == tree(made.path)


def test_what_neither_has_is_named_after_all_else_was_repaired(made, bad, good):
    for copy in (bad, good):
        flip(blob(made, copy, 1))
    flip(blob(made, bad, 0))
    with pytest.raises(NotRepaired, match="1 of 2") as caught:
        repair(made, bad, good)
    assert made.blob_of(BLOB, 1) in caught.value.why
    assert BLOB in caught.value.why
    assert blob(made, bad, 0).read_bytes() == blob(made, made.path, 0).read_bytes()
    assert not list(bad.rglob("*.part"))
    repair(made, bad, made.path)
    assert tree(bad) == tree(made.path)


def test_what_is_not_listed_is_removed_only_when_asked(made, bad, good):
    (bad / "photos" / "2026").mkdir(parents=True)
    (bad / "photos" / "me.jpg").write_text("x")
    (bad / "metadata" / "9.root.json").write_text("{}")
    (bad / "link").symlink_to("/etc/passwd")
    flip(blob(made, bad))
    with pytest.raises(UnlistedFile, match=r"photos/me\.jpg"):
        repair(made, bad, good)
    assert (bad / "photos/me.jpg").read_text() == "x"
    assert blob(made, bad).read_bytes() == blob(made, made.path).read_bytes()
    done = repair(made, bad, good, remove_unlisted=True)
    assert set(done.removed) == {"link", "metadata/9.root.json", "photos", "photos/2026", "photos/me.jpg"}
    assert tree(bad) == tree(made.path)
    assert Path("/etc/passwd").exists()


def test_what_a_killed_repair_left_is_cleared_away(made, bad, good):
    left = blob(made, bad).with_name(blob(made, bad).name + ".part")
    left.write_bytes(b"half")
    assert repair(made, bad, good).removed == ()
    assert tree(bad) == tree(made.path)


def test_a_repair_that_is_killed_leaves_the_copy_no_worse(made, bad, good):
    for number in range(3):
        flip(blob(made, bad, number))

    def stop(event):
        if event.stage == "repair" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(made, bad, good, progress=stop)
    assert len(repair(made, bad, good).mended) == 1
    assert tree(bad) == tree(made.path)


def test_a_copy_of_another_bundle_is_left_alone(made, bad, tmp_path):
    other = made.seal(version=9, files={"policy/channel.json": b"{}"}, name="other-version", now=made.verified.time)
    flip(bad / SEAL, 60)
    before = tree(bad)
    with pytest.raises(NotRepaired, match="not a copy of this bundle"):
        repair(made, bad, other)
    assert tree(bad) == before


def test_chunks_are_taken_from_another_version_that_has_them(made, bad):
    other = made.seal(version=11, files={**FILES, "policy/channel.json": b'{"v":3}'}, name="newer")
    flip(blob(made, bad))
    repair(made, bad, other)
    assert tree(bad) == tree(made.path)


def test_two_copies_of_untrusted_bundles_stay_untrusted(made, bad, good, tmp_path):
    stranger = Carriage(tmp_path / "stranger")
    flip(blob(made, bad))
    with pytest.raises(VerificationError):
        mending.repair(bad, good, stranger.verify)


def test_a_damaged_copy_on_a_disc_is_made_whole_elsewhere(made, bad, good, tmp_path):
    flip(blob(made, bad, 0))
    flip(blob(made, good, 1))
    flip(bad / "metadata/1.models.json", 9)
    before = tree(bad)
    copies = [mending.survey(place)[0] for place in (bad, good)]
    verified = mending.verify_either(copies[0], copies[1], made.verify)
    done = carrying.copy(copies, verified.contents, verified.contents.parts, tmp_path / "whole")
    assert tree(tmp_path / "whole") == tree(made.path)
    assert tree(bad) == before
    assert {made.blob_of(BLOB, 0), "metadata/1.models.json"} == set(done.spared)


def test_places_that_are_not_there_are_named(made, bad, tmp_path):
    with pytest.raises(NotFound):
        repair(made, tmp_path / "nothing", bad)
    with pytest.raises(NotFound):
        repair(made, bad, tmp_path / "nothing")


def hurt(path: Path, harm: str, at: int) -> None:
    if harm == "flip":
        flip(path, at)
    elif harm == "cut":
        os.truncate(path, at)
    else:
        path.unlink()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_two_copies_damaged_in_different_parts_give_one_whole_copy(made, tmp_path_factory, data):
    base = tmp_path_factory.mktemp("two")
    copies = [Path(shutil.copytree(made.path, base / name)) for name in ("bad", "good")]
    parts = [part for part in made.verified.contents.parts if part.length]
    for part in parts:
        where = data.draw(st.sampled_from([None, None, *copies]))
        if where is not None and not part.name.endswith(("root.json", "timestamp.json")):
            at = data.draw(st.integers(0, part.length - 1))
            harm = data.draw(st.sampled_from(["flip", "cut", "remove"]))
            hurt(where / part.name, harm, at)
    repair(made, *copies)
    assert tree(copies[0]) == tree(made.path)
