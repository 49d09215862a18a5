"""Going on after an interruption: what is right in staging is hashed there, only the rest is read from the media."""

import hashlib
import os
from pathlib import Path

import pytest

from bundles.transfer_stick import Counted, Stick, failing, flip, names, sealed, stick_with
from plugsky_bundles.errors import MediaUnreadable
from plugsky_bundles.store_index import stored_path

MIB = 1 << 20
BIG = "models/big/weights.bin"
SMALL = "policy/channel.json"
FILES = {BIG: os.urandom(9 * MIB + 5), SMALL: b"{}"}
CUT = {BIG: (MIB,) * 5 + (100, 2 * MIB, 2 * MIB - 95)}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("resume"), FILES, CUT)


@pytest.fixture
def stick(tmp_path, right):
    return stick_with(tmp_path, *right)


def part(stick: Stick) -> Path:
    return stick.staging / f"sha256-{stick.entry(BIG).sha256}.part"


def wrong_chunks(stick: Stick) -> dict[str, int]:
    """Digests and lengths of the chunks of the big file that staging does not have right."""
    data, at, wrong = part(stick).read_bytes(), 0, {}
    for chunk in stick.entry(BIG).chunks:
        if hashlib.sha256(data[at : at + chunk.length]).hexdigest() != chunk.sha256:
            wrong[chunk.sha256] = chunk.length
        at += chunk.length
    return wrong


def small_blob(stick: Stick) -> dict[str, int]:
    return {stick.entry(SMALL).sha256: stick.entry(SMALL).length}


@pytest.mark.integration
@pytest.mark.parametrize("moment", [1, 4, 6, 8])
def test_after_a_kill_only_chunks_that_are_not_right_in_staging_are_read_again(stick, monkeypatch, moment):
    stick.killed(moment)
    expected = wrong_chunks(stick)
    counted = Counted(monkeypatch)
    stick.apply()
    assert counted.of_blobs() == expected | small_blob(stick)
    assert stick.stored() == FILES
    assert names(stick.staging) == []


def interrupt(stick: Stick, monkeypatch, reads: int) -> None:
    """Let the media fail after so many reads of it."""
    with monkeypatch.context() as patch:
        failing(patch, "preadv", 5, reads)
        with pytest.raises(MediaUnreadable):
            stick.apply()


def test_media_that_fails_late_costs_only_what_was_not_written_yet(stick, monkeypatch):
    interrupt(stick, monkeypatch, 6)
    expected = wrong_chunks(stick)
    assert 0 < sum(expected.values()) < stick.entry(BIG).length
    counted = Counted(monkeypatch)
    stick.apply()
    assert counted.of_blobs() == expected | small_blob(stick)
    assert stick.stored() == FILES


def test_one_wrong_byte_in_a_finished_file_costs_one_chunk(stick, monkeypatch):
    stick.staging.mkdir(parents=True)
    finished = stored_path(stick.staging, stick.entry(BIG).sha256)
    finished.write_bytes(FILES[BIG])
    flip(finished, 3 * MIB + 17)
    finished.chmod(0o440)
    counted = Counted(monkeypatch)
    stick.apply()
    assert counted.of_blobs() == {stick.entry(BIG).chunks[3].sha256: MIB} | small_blob(stick)
    assert stick.stored() == FILES


@pytest.mark.parametrize("length", [0, 1, 6 * MIB, 12 * MIB])
def test_a_part_of_any_length_is_gone_on_from(stick, length):
    stick.staging.mkdir(parents=True)
    part(stick).write_bytes((FILES[BIG] + bytes(4 * MIB))[:length])
    stick.apply()
    assert stick.stored() == FILES


ODD = {
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a pipe": os.mkfifo,
    "a directory's link": lambda path: path.symlink_to("/etc"),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
@pytest.mark.parametrize("suffix", ["", ".part"])
def test_what_is_no_file_in_staging_is_not_gone_on_from(stick, make, suffix):
    stick.staging.mkdir(parents=True)
    make(stick.staging / f"sha256-{stick.entry(BIG).sha256}{suffix}")
    stick.apply()
    assert stick.stored() == FILES
    assert not any(path.is_symlink() for path in stick.store.iterdir())


def test_a_stick_that_is_pulled_keeps_what_was_copied(stick, monkeypatch):
    away = stick.path.with_name("pulled")

    def pull(event):
        if event.stage == "copy" and event.done >= 4 * MIB and stick.path.exists():
            stick.path.rename(away)

    with pytest.raises(MediaUnreadable, match="was taken away"):
        stick.apply(progress=pull)
    assert names(stick.store) == []
    expected = wrong_chunks(stick)
    assert sum(expected.values()) < stick.entry(BIG).length
    away.rename(stick.path)
    counted = Counted(monkeypatch)
    stick.apply()
    assert counted.of_blobs() == expected | small_blob(stick)
    assert stick.stored() == FILES


def test_an_interrupt_keeps_what_was_copied(stick):
    def stop(event):
        if event.done >= 6 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stick.apply(progress=stop)
    assert part(stick).exists()
    assert names(stick.store) == []
    stick.apply()
    assert stick.stored() == FILES


def test_what_another_bundle_left_in_staging_makes_room(stick):
    stick.staging.mkdir(parents=True)
    for suffix in ("", ".part", ".chunks"):
        (stick.staging / f"sha256-{'0' * 64}{suffix}").touch()
    stick.apply()
    assert names(stick.staging) == []
