import os
import stat
from pathlib import Path

import pytest

from bundles.forge import NOW, PASSPHRASE, Forge, sha256
from plugsky_bundles import atomic, ceremony, keys
from plugsky_bundles.chain import verify_chain
from plugsky_bundles.errors import (
    BadThreshold,
    ExistsError,
    KeyUnusable,
    MalformedMetadata,
    NoSpace,
    NotFound,
    PassphraseError,
)
from plugsky_bundles.trustdir import ChannelRecord, open_trust


def tree(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def test_a_ceremony_makes_encrypted_keys_a_signed_root_and_a_custody_log(tmp_path):
    made = ceremony.init(tmp_path / "trust", PASSPHRASE, root_keys=3, root_threshold=2, now=NOW)
    trust = open_trust(made.path)
    assert sorted(path.name for path in (made.path / "keys").iterdir()) == [
        "root-1.pem",
        "root-2.pem",
        "root-3.pem",
        "snapshot.pem",
        "targets-1.pem",
        "timestamp.pem",
    ]
    for path in (made.path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"ENCRYPTED" in path.read_bytes()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert (trust.root.roles["root"].threshold, len(trust.root.roles["root"].keyids)) == (2, 3)
    assert made.fingerprint == sha256((made.path / "metadata/1.root.json").read_bytes())
    events = []
    verify_chain(made.path / "custody.jsonl", made.keyids["snapshot"], on_record=lambda line: events.append(line.body))
    assert [(event["event"], event["root_fingerprint"]) for event in events] == [("trust.init", made.fingerprint)]
    assert tree(tmp_path)[0] == "trust"


def test_the_passphrase_appears_nowhere(tmp_path):
    ceremony.init(tmp_path / "trust", PASSPHRASE, now=NOW)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or PASSPHRASE not in path.read_bytes()


def test_an_empty_directory_may_become_the_trust_directory(tmp_path):
    (tmp_path / "trust").mkdir()
    assert open_trust(ceremony.init(tmp_path / "trust", PASSPHRASE, now=NOW).path).roots


@pytest.mark.parametrize("kind", ["full", "file", "link"])
def test_trust_is_never_begun_over_something_that_is_there(tmp_path, kind):
    out = tmp_path / "trust"
    if kind == "full":
        out.mkdir()
        (out / "x").write_text("x")
    elif kind == "file":
        out.write_text("x")
    else:
        out.symlink_to(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ExistsError):
        ceremony.init(out, PASSPHRASE, now=NOW)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("count", range(0, 30, 3))
def test_a_ceremony_interrupted_anywhere_leaves_nothing(tmp_path, monkeypatch, count):
    left = [count]
    real = os.fsync

    def interrupt(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", interrupt)
    try:
        ceremony.init(tmp_path / "trust", PASSPHRASE, now=NOW)
    except KeyboardInterrupt:
        assert tree(tmp_path) == [] or open_trust(tmp_path / "trust").open_keys("root", PASSPHRASE)
    else:
        assert count > 8


def test_what_a_killed_ceremony_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".trust.part/keys").mkdir(parents=True)
    ceremony.init(tmp_path / "trust", PASSPHRASE, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["trust"]


def test_a_full_disk_during_a_ceremony_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace):
        ceremony.init(tmp_path / "trust", PASSPHRASE, now=NOW)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(("number", "threshold"), [(1, 2), (1, 0), (0, 0), (3, -1), (17, 1)])
def test_a_threshold_that_its_keys_cannot_meet_is_refused(tmp_path, number, threshold):
    with pytest.raises(BadThreshold):
        ceremony.init(tmp_path / "trust", PASSPHRASE, root_keys=number, root_threshold=threshold, now=NOW)
    with pytest.raises(BadThreshold):
        ceremony.init(tmp_path / "trust", PASSPHRASE, targets_keys=number, targets_threshold=threshold, now=NOW)
    assert tree(tmp_path) == []


def test_an_empty_passphrase_begins_no_trust(tmp_path):
    with pytest.raises(PassphraseError):
        ceremony.init(tmp_path / "trust", b"", now=NOW)
    assert tree(tmp_path) == []


def test_every_key_at_hand_opens_and_named_ones_must(tmp_path):
    forge = Forge(tmp_path, targets_keys=3)
    trust = open_trust(forge.trust)
    assert len(trust.open_keys("targets", PASSPHRASE)) == 3
    keys.save(forge.trust / "keys/targets-2.pem", trust.open_keys("targets", PASSPHRASE)[1], b"of someone else")
    (forge.trust / "keys/targets-3.pem").unlink()
    assert len(trust.open_keys("targets", PASSPHRASE)) == 1
    with pytest.raises(PassphraseError, match=r"targets-2\.pem"):
        trust.open_keys("targets", PASSPHRASE, ["targets-2"])
    with pytest.raises(NotFound):
        trust.open_keys("targets", PASSPHRASE, ["targets-3"])
    with pytest.raises(NotFound, match="targets-9"):
        trust.open_keys("targets", PASSPHRASE, ["targets-9"])
    with pytest.raises(PassphraseError, match=r"targets-1\.pem"):
        trust.open_keys("targets", b"wrong")


def test_a_key_file_that_holds_another_key_is_not_used(tmp_path):
    forge = Forge(tmp_path)
    keys.save(forge.trust / "keys/targets-1.pem", keys.generate(), PASSPHRASE)
    with pytest.raises(KeyUnusable, match="wrong key"):
        open_trust(forge.trust).open_keys("targets", PASSPHRASE)
    (forge.trust / "keys/targets-1.pem").unlink()
    with pytest.raises(KeyUnusable, match="No targets key"):
        open_trust(forge.trust).open_keys("targets", PASSPHRASE)


def test_a_directory_without_a_root_is_no_trust_directory(tmp_path):
    with pytest.raises(NotFound, match="trust init"):
        open_trust(tmp_path)


def test_the_last_sealed_version_of_a_channel_is_kept(tmp_path):
    trust = open_trust(Forge(tmp_path).trust)
    assert (trust.channel("demo"), trust.next_version("demo")) == (None, 1)
    record = ChannelRecord("demo", 7, "ab" * 32, "cd" * 32, "2026-11-22T12:00:00Z")
    trust.record_channel(record)
    assert (trust.channel("demo"), trust.next_version("demo"), trust.next_version("other")) == (record, 8, 1)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema":"plugsky.channel/1"}', b"[]"])
def test_a_damaged_channel_record_is_never_taken_as_a_new_channel(tmp_path, content):
    trust = open_trust(Forge(tmp_path).trust)
    trust.record_channel(ChannelRecord("demo", 7, "ab" * 32, "cd" * 32, "2026-11-22T12:00:00Z"))
    (trust.path / "channels/demo.json").write_bytes(content)
    with pytest.raises(MalformedMetadata):
        trust.next_version("demo")


def test_an_atomic_write_replaces_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_file(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input"):
        atomic.write_file(path, b"new")
    assert (path.read_bytes(), [p.name for p in tmp_path.iterdir()]) == (b"old", ["file"])


def test_what_a_killed_writer_left_behind_is_in_nobodys_way(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with monkeypatch.context() as killed:
        killed.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        killed.setattr(type(path), "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            atomic.write_file(path, b"half")
    assert len(list(tmp_path.iterdir())) == 1
    atomic.write_file(path, b"whole")
    assert path.read_bytes() == b"whole"
