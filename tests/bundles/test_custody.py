"""Who had a bundle in hand: what is recorded after the seal, and what makes it doubtful."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from bundles.forge import NOW, Forge
from plugsky_bundles import custody, custody_review, enrolment, keys
from plugsky_bundles.custody_review import Keyholder
from plugsky_bundles.errors import CustodyDoubt, MalformedMetadata, UnsafeName
from plugsky_bundles.format import CUSTODY
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import Revocations
from plugsky_bundles.verify import verify_metadata

OPERATOR, COURIER, OFFICER, SITE, STRANGER = (keys.generate() for _ in range(5))
KNOWN = {
    signer.public_key.keyid: Keyholder(name, role)
    for name, role, signer in (
        ("Ada", custody_review.OPERATOR, OPERATOR),
        ("Ben", enrolment.COURIER, COURIER),
        ("Cleo", enrolment.APPROVER, OFFICER),
        ("riyadh", enrolment.SITE, SITE),
    )
}


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    forge = Forge(tmp_path_factory.mktemp("forge"))
    return verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "plugsky-returns" / custody.FOLDER


def hand_on(folder, forged):
    """A bundle written, handed over and verified by three people."""
    custody.record(folder, forged, OPERATOR, "Ada", "bundle.write", NOW + timedelta(hours=1), {"medium": "stick 7"})
    custody.record(folder, forged, COURIER, "Ben", "bundle.receive", NOW + timedelta(hours=2))
    custody.record(folder, forged, COURIER, "Ben", "bundle.hand-over", NOW + timedelta(hours=9), {"to": "Cleo"})
    return custody.record(folder, forged, OFFICER, "Cleo", "bundle.verify", NOW + timedelta(hours=10))


def test_the_way_of_a_bundle_reads_from_the_build_to_the_facility(folder, forged):
    hand_on(folder, forged)
    found = custody_review.review(folder, forged, KNOWN)
    assert found.doubts == ()
    assert [event.event for event in found.events] == [
        "trust.init",
        "bundle.build",
        "bundle.sign",
        "bundle.seal",
        "bundle.write",
        "bundle.receive",
        "bundle.hand-over",
        "bundle.verify",
    ]
    assert [event.known_as for event in found.events[4:]] == [
        "operator Ada",
        "courier Ben",
        "courier Ben",
        "approver Cleo",
    ]
    assert found.events[4].details == {"medium": "stick 7"}
    assert found.recorded


def test_a_bundle_that_nobody_carried_yet_has_its_sealed_log_only(folder, forged):
    found = custody_review.review(folder, forged, KNOWN)
    assert found.doubts == ()
    assert [event.event for event in found.events] == ["trust.init", "bundle.build", "bundle.sign", "bundle.seal"]
    assert not found.recorded


def edited(path):
    path.write_bytes(path.read_bytes().replace(b'"Ben"', b'"Bea"', 1))


def cut(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))


def removed(path):
    path.unlink()


def torn(path):
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("harm", "doubt"),
    [(edited, "jsonl"), (cut, "cut or replaced"), (removed, "which is gone"), (torn, "jsonl")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_log_that_was_harmed_after_others_saw_it_is_missed(folder, forged, harm, doubt):
    hand_on(folder, forged)
    harm(next(folder.glob(f"*{COURIER.public_key.keyid[:16]}*")))
    found = custody_review.review(folder, forged, KNOWN)
    assert any(doubt in said for said in found.doubts), found.doubts


def test_a_key_that_nobody_enrolled_is_told_apart_from_a_fault(folder, forged):
    log = custody.record(folder, forged, STRANGER, "Ada", "bundle.write", NOW)
    found = custody_review.review(folder, forged, KNOWN)
    assert found.doubts == ()
    assert found.unknown == {log.name: STRANGER.public_key.keyid}
    assert found.events[-1].known_as == ""
    assert found.recorded


def test_a_log_by_a_key_that_nobody_enrolled_is_a_fault_when_it_was_changed(folder, forged):
    log = custody.record(folder, forged, STRANGER, "Ada", "bundle.write", NOW)
    log.write_bytes(log.read_bytes().replace(b'"Ada"', b'"Eve"', 1))
    found = custody_review.review(folder, forged, KNOWN)
    assert [log.name in said for said in found.doubts] == [True]
    assert not found.unknown


def test_a_log_of_another_bundle_under_this_ones_name_is_a_doubt(folder, forged, tmp_path):
    other = Forge(tmp_path / "other")
    foreign = verify_metadata(open_bundle(other.sealed()), other.fingerprint, now=NOW)
    custody.record(folder, foreign, COURIER, "Ben", "bundle.write", NOW)
    (said,) = custody_review.review(folder, forged, KNOWN).doubts
    assert "another bundle" in said


def test_a_record_older_than_the_seal_tells_of_a_wrong_clock(folder, forged):
    custody.record(folder, forged, COURIER, "Ben", "bundle.write", NOW - timedelta(days=30))
    (said,) = custody_review.review(folder, forged, KNOWN).doubts
    assert "clock" in said


def test_logs_are_carried_along_and_go_on_at_the_other_end(folder, forged, tmp_path):
    custody.record(folder, forged, OPERATOR, "Ada", "bundle.write", NOW)
    there = tmp_path / "stick" / custody.FOLDER
    assert custody.carry(folder, there, forged) == 1
    assert custody.carry(folder, there, forged) == 0
    custody.record(there, forged, OFFICER, "Cleo", "bundle.verify", NOW)
    custody.record(there, forged, OPERATOR, "Ada", "bundle.note", NOW, {"text": "seal of the bag intact"})
    assert custody.carry(folder, there, forged) == 0, "what is longer there stays"
    assert custody.carry(there, folder, forged) == 2
    found = custody_review.review(folder, forged, KNOWN)
    assert found.doubts == ()
    assert len(found.events) == 7


def test_two_different_logs_of_one_key_are_not_joined(folder, forged, tmp_path):
    there = tmp_path / "stick" / custody.FOLDER
    custody.record(folder, forged, COURIER, "Ben", "bundle.write", NOW)
    custody.record(there, forged, COURIER, "Ben", "bundle.receive", NOW)
    with pytest.raises(CustodyDoubt):
        custody.carry(folder, there, forged)


def test_junk_in_the_folder_is_not_read(folder, forged):
    hand_on(folder, forged)
    (folder / "notes.txt").write_text("hello")
    (folder / f"demo-2-{'0' * 16}.jsonl").symlink_to("notes.txt")
    assert custody_review.review(folder, forged, KNOWN).doubts == ()


def linked(path):
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def piped(path):
    path.unlink()
    os.mkfifo(path)


def a_directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [linked, piped, a_directory])
def test_a_log_that_is_no_plain_file_is_a_doubt_and_is_neither_read_nor_written(folder, forged, tmp_path, harm):
    path = custody.record(folder, forged, COURIER, "Ben", "bundle.receive", NOW)
    harm(path)
    before = {place: place.read_bytes() for place in folder.iterdir() if place.is_file()}
    found = custody_review.review(folder, forged, KNOWN)
    assert [doubt for doubt in found.doubts if "no plain file" in doubt] == list(found.doubts) != []
    assert not found.recorded
    own = tmp_path / "own" / custody.FOLDER
    custody.record(own, forged, COURIER, "Ben", "bundle.receive", NOW)
    for write in (
        lambda: custody.record(folder, forged, COURIER, "Ben", "bundle.note", NOW),
        lambda: custody.carry(own, folder, forged),
    ):
        with pytest.raises(CustodyDoubt, match="is no custody log"):
            write()
    assert {place: place.read_bytes() for place in folder.iterdir() if place.is_file()} == before


@pytest.mark.parametrize("which", ["the folder of logs", "plugsky-returns"])
def test_nothing_is_written_through_a_link_or_read_from_where_it_leads(folder, forged, tmp_path, which):
    hand_on(folder, forged)
    link = folder if which == "the folder of logs" else folder.parent
    link.symlink_to(link.rename(tmp_path / "elsewhere"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").rglob("*")}
    found = custody_review.review(folder, forged, KNOWN)
    assert [doubt for doubt in found.doubts if "no directory of its own" in doubt] == list(found.doubts) != []
    assert not found.recorded
    own = tmp_path / "own" / custody.FOLDER
    custody.record(own, forged, STRANGER, "Eve", "bundle.note", NOW)
    for write in (
        lambda: custody.record(folder, forged, OPERATOR, "Ada", "bundle.note", NOW),
        lambda: custody.carry(own, folder, forged),
    ):
        with pytest.raises(UnsafeName, match="is a link"):
            write()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").rglob("*")} == before


UNFITTING = {
    "a courier approves": (COURIER, "Ben", "bundle.approve", "only approver keys"),
    "the operator approves": (OPERATOR, "Ada", "bundle.approve", "only approver keys"),
    "an approver installs": (OFFICER, "Cleo", "bundle.install", "only site keys"),
    "a site hands over": (SITE, "site", "bundle.hand-over", "signs bundle.install only"),
    "a courier under another name": (COURIER, "Cleo", "bundle.hand-over", "who calls themselves 'Cleo'"),
}


@pytest.mark.parametrize(("signer", "by", "event", "why"), UNFITTING.values(), ids=UNFITTING.keys())
def test_what_a_key_signs_beyond_its_role_or_name_is_a_doubt(folder, forged, signer, by, event, why):
    custody.record(folder, forged, signer, by, event, NOW)
    (said,) = custody_review.review(folder, forged, KNOWN).doubts
    assert why in said


@pytest.mark.parametrize("by", ["site", "riyadh"])
def test_a_site_installs_and_an_approver_approves_without_a_doubt(folder, forged, by):
    custody.record(folder, forged, OFFICER, "Cleo", "bundle.approve", NOW)
    custody.record(folder, forged, SITE, by, "bundle.install", NOW)
    assert custody_review.review(folder, forged, KNOWN).doubts == ()


@pytest.mark.parametrize("by", ["the bundle", "the operator"])
def test_a_log_signed_with_a_revoked_key_is_a_doubt(folder, forged, by):
    hand_on(folder, forged)
    gone = frozenset({COURIER.public_key.keyid})
    if by == "the bundle":
        state = replace(forged.state, revocations=Revocations(keys=gone))
        found = custody_review.review(folder, replace(forged, state=state), KNOWN)
    else:
        found = custody_review.review(folder, forged, KNOWN, gone)
    (said,) = found.doubts
    assert "has been revoked" in said


def test_a_bundle_without_a_sealed_log_is_a_doubt(folder, forged):
    bare = replace(forged, evidence={name: f for name, f in forged.evidence.items() if name != CUSTODY})
    (said,) = custody_review.review(folder, bare, KNOWN).doubts
    assert "no sealed log" in said


def test_a_log_that_was_tampered_with_is_not_continued_from(folder, forged):
    edited(hand_on(folder, forged).with_name(f"demo-1-{COURIER.public_key.keyid[:16]}.jsonl"))
    with pytest.raises(CustodyDoubt):
        custody.record(folder, forged, OFFICER, "Cleo", "bundle.verify", NOW)


@pytest.mark.parametrize("details", [{"Bad name": "x"}, {"to": "two\nlines"}, {"to": "x" * 501}], ids=str)
def test_details_are_short_lines_under_plain_names(folder, forged, details):
    with pytest.raises(MalformedMetadata):
        custody.record(folder, forged, COURIER, "Ben", "bundle.note", NOW, details)
    assert not folder.exists()
