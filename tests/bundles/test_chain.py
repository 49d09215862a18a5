import fcntl
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky_bundles import keys
from plugsky_bundles.chain import ChainWriter, Position, being_written, verify_chain
from plugsky_bundles.chain_lines import START, read_line, write_line
from plugsky_bundles.errors import (
    ChainError,
    ExistsError,
    KeyUnusable,
    MalformedMetadata,
    NoSpace,
    NotFound,
    VerificationError,
)

SIGNER = keys.generate()
KEYID = SIGNER.public_key.keyid


def write(path: Path, groups=((1, 2), (3,), (4, 5))) -> Path:
    """A chain of seven lines and more: genesis, commit, then each group of records with its commit."""
    with ChainWriter(path, SIGNER, "test") as chain:
        for group in groups:
            for number in group:
                chain.append({"event": "count", "number": number})
            chain.commit()
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.jsonl")


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def check(lines: list[bytes], **options):
    return verify_chain(io.BytesIO(b"".join(lines)), {KEYID}, **options)


def test_an_intact_chain_is_reported_with_its_head(log):
    report = verify_chain(log, {KEYID})
    assert (report.origin, report.keyid, report.records, report.commits, report.uncommitted) == ("test", KEYID, 5, 4, 0)
    assert report.head.seq == len(lines_of(log)) - 1


def test_every_changed_byte_of_a_chain_is_found(log):
    data = bytearray(log.read_bytes())
    for index in range(0, len(data), 7):
        for flip in (0x01, 0x20):
            data[index] ^= flip
            with pytest.raises(ChainError):
                verify_chain(io.BytesIO(bytes(data)), {KEYID})
            data[index] ^= flip


def test_every_cut_that_is_not_behind_a_commit_is_found(log):
    data = log.read_bytes()
    ends, total = set(), 0
    for line in lines_of(log):
        total += len(line)
        if b'{"commit"' in line:
            ends.add(total)
    for end in range(0, len(data), 11):
        if end not in ends:
            with pytest.raises(ChainError):
                verify_chain(io.BytesIO(data[:end]), {KEYID})


def test_a_cut_behind_a_commit_is_found_by_a_witness(log):
    lines = lines_of(log)
    head = check(lines).head
    assert check(lines[:-3]).records == 3
    with pytest.raises(ChainError, match="witness"):
        check(lines[:-3], expect=head)


def test_a_removed_line_is_called_removed(log):
    lines = lines_of(log)
    with pytest.raises(ChainError, match="removed") as caught:
        check(lines[:3] + lines[4:])
    assert (caught.value.seq, caught.value.offset) == (3, sum(map(len, lines[:3])))


def test_swapped_lines_are_called_reordered(log):
    lines = lines_of(log)
    lines[2], lines[3] = lines[3], lines[2]
    with pytest.raises(ChainError, match="reordered"):
        check(lines)


def test_a_repeated_line_is_found(log):
    lines = lines_of(log)
    with pytest.raises(ChainError, match="repeated"):
        check(lines[:4] + lines[3:])


def rehash(lines: list[bytes], start: int) -> list[bytes]:
    """Recompute the links from line `start` on, as someone without the key could."""
    after = read_line(lines[start - 1]).position
    result = lines[:start]
    for raw in lines[start:]:
        line = read_line(raw)
        again, after = write_line(after, line.kind, line.body)
        result.append(again)
    return result


def test_an_edit_with_all_hashes_recomputed_is_found_and_placed(log):
    lines = lines_of(log)
    lines[5] = lines[5].replace(b'"number":3', b'"number":9')
    with pytest.raises(ChainError, match="hashes recomputed") as caught:
        check(rehash(lines, 6))
    assert caught.value.seq == 5


def test_a_chain_signed_by_another_key_is_not_trusted(log):
    with pytest.raises(ChainError, match="not trusted"):
        verify_chain(log, {"00" * 32})
    assert verify_chain(log).keyid == KEYID


def test_a_second_genesis_inside_is_refused(log):
    lines = lines_of(log)
    after = read_line(lines[-1]).position
    raw, _ = write_line(after, "genesis", read_line(lines[0]).body)
    with pytest.raises(ChainError, match="second genesis"):
        check([*lines, raw])


def test_an_empty_log_proves_nothing():
    with pytest.raises(ChainError, match="empty"):
        check([])


def test_a_line_of_two_mebibytes_is_refused_without_reading_it_whole():
    with pytest.raises(ChainError, match="too long"):
        check([b"x" * (2 << 20)])


@given(st.binary(max_size=80))
def test_any_bytes_as_a_log_are_refused_by_name(data):
    with pytest.raises(VerificationError):
        verify_chain(io.BytesIO(data))


@pytest.mark.parametrize("number", [b"1.5", b"NaN", b"1e400", b"9007199254740992", b"9" * 5000])
def test_a_line_with_a_number_that_nobody_writes_is_refused(number):
    with pytest.raises(MalformedMetadata, match="exact values"):
        read_line(b'{"prev":"x","record":{"a":' + number + b'},"seq":0}\n')


def test_records_are_seen_in_order(log):
    seen: list[int] = []
    verify_chain(log, {KEYID}, on_record=lambda line: seen.append(line.body["number"]))
    assert seen == [1, 2, 3, 4, 5]


def test_a_log_that_is_still_written_may_have_an_open_tail(tmp_path):
    with ChainWriter(tmp_path / "log", SIGNER, "test") as chain:
        chain.append({"a": 1})
        assert verify_chain(tmp_path / "log", {KEYID}, open_tail=True).uncommitted == 1
        with pytest.raises(ChainError, match="not covered"):
            verify_chain(tmp_path / "log", {KEYID})


def test_a_segment_continues_the_one_before(tmp_path, log):
    head = verify_chain(log).head
    with ChainWriter(tmp_path / "2.jsonl", SIGNER, "test", follows=head) as chain:
        chain.append({"a": 1})
    assert verify_chain(tmp_path / "2.jsonl", {KEYID}, follows=head).head.seq == head.seq + 4
    with pytest.raises(ChainError):
        verify_chain(tmp_path / "2.jsonl", {KEYID})


def test_reopening_a_closed_log_changes_nothing(log):
    before = log.read_bytes()
    with ChainWriter(log, SIGNER, "test") as chain:
        assert chain.recovery.recommitted == chain.recovery.cut_bytes == 0
        assert chain.commit() == chain.position
    assert log.read_bytes() == before


def test_records_left_uncommitted_by_a_dead_process_are_kept_and_signed(log):
    after = read_line(lines_of(log)[-1]).position
    raw, _ = write_line(after, "record", {"event": "count", "number": 6})
    log.write_bytes(log.read_bytes() + raw)
    with ChainWriter(log, SIGNER, "test") as chain:
        assert (chain.recovery.recommitted, chain.recovery.cut_bytes) == (1, 0)
    events = []
    assert verify_chain(log, {KEYID}, on_record=lambda line: events.append(line.body["event"])).records == 7
    assert events[-1] == "chain.recovered"


@pytest.mark.parametrize("torn", [b'{"prev":"', b"\0" * 500, b"{}\n", b'{"commit":{},"prev":"","seq":10}\n'])
def test_a_torn_end_is_cut_kept_aside_and_said(log, torn):
    intact = log.read_bytes()
    log.write_bytes(intact + torn)
    with ChainWriter(log, SIGNER, "test") as chain:
        assert (chain.recovery.recommitted, chain.recovery.cut_bytes) == (0, len(torn))
    (aside,) = log.parent.glob("*.torn-*")
    assert aside.read_bytes() == torn
    assert verify_chain(log, {KEYID}).records == 6


@pytest.mark.parametrize("cut", [0, 1, 40, 300, 500])
def test_a_log_whose_creation_was_cut_off_is_created_again(tmp_path, cut):
    path = write(tmp_path / "log", groups=())
    path.write_bytes(path.read_bytes()[:cut])
    write(path)
    assert verify_chain(path, {KEYID}).records == 5


def test_a_log_without_a_good_signature_near_its_end_is_not_continued(log):
    lines = [line for line in lines_of(log) if b'{"commit"' not in line]
    log.write_bytes(b"".join(rehash(lines, 1)))
    before = log.read_bytes()
    with pytest.raises(ChainError, match="cannot be continued"):
        ChainWriter(log, SIGNER, "test")
    assert log.read_bytes() == before


def test_a_file_that_is_no_log_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("one line")
    with pytest.raises(ChainError):
        ChainWriter(path, SIGNER, "test")
    assert path.read_text() == "one line"


def test_a_log_of_another_key_or_origin_is_not_continued(log):
    with pytest.raises(KeyUnusable):
        ChainWriter(log, keys.generate(), "test")
    with pytest.raises(KeyUnusable):
        ChainWriter(log, SIGNER, "elsewhere")


def test_one_writer_at_a_time(log):
    with log.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ExistsError, match="another process"):
            ChainWriter(log, SIGNER, "test")
    assert not being_written(log)
    with ChainWriter(log, SIGNER, "test"):
        assert being_written(log)


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    path = tmp_path / "log"
    chain = ChainWriter(path, SIGNER, "test")
    size = path.stat().st_size
    real = os.write

    def half(fd, data):
        monkeypatch.setattr(os, "write", full)
        return real(fd, bytes(data[:10]))

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(NoSpace):
        chain.append({"a": 1})
    monkeypatch.setattr(os, "write", real)
    assert path.stat().st_size == size
    chain.append({"a": 2})
    chain.close()
    assert verify_chain(path, {KEYID}).records == 1


@pytest.mark.parametrize("record", [{"a": 1.5}, {"a": {1: 2}}, {"a": b"x"}, {"a": "x" * (1 << 20)}])
def test_a_record_without_exact_form_is_a_mistake_of_the_caller(tmp_path, record):
    with ChainWriter(tmp_path / "log", SIGNER, "test") as chain, pytest.raises((TypeError, ValueError)):
        chain.append(record)


def test_the_writer_commits_by_itself_before_too_much_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr("plugsky_bundles.chain.MAX_TAIL", 2000)
    chain = ChainWriter(tmp_path / "log", SIGNER, "test")
    for number in range(100):
        chain.append({"number": number})
    assert verify_chain(tmp_path / "log", {KEYID}, open_tail=True).uncommitted < 15
    chain.close()


def test_a_sync_that_fails_once_leaves_a_chain_that_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "log"
    chain = ChainWriter(path, SIGNER, "test")
    chain.append({"a": 1})
    synced: list[int] = []

    def broken(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input"):
        chain.commit()
    monkeypatch.setattr(os, "fdatasync", synced.append)
    chain.commit()
    assert len(synced) == 1, "what was signed before is synced by the next commit"
    chain.append({"a": 2})
    chain.close()
    report = verify_chain(path, {KEYID})
    assert (report.records, report.commits) == (2, 3)


def test_a_record_refused_by_the_commit_before_it_is_not_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("plugsky_bundles.chain.MAX_TAIL", 400)
    path = tmp_path / "log"
    chain = ChainWriter(path, SIGNER, "test")
    chain.append({"number": "x" * 300})

    def broken(fd):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input"):
            chain.append({"number": 2})
    chain.append({"number": 2})
    chain.close()
    seen = []
    verify_chain(path, {KEYID}, on_record=lambda line: seen.append(line.body["number"]))
    assert seen == ["x" * 300, 2]


def test_p256_keys_sign_chains_too(tmp_path):
    signer = keys.generate(keys.P256)
    with ChainWriter(tmp_path / "log", signer, "test") as chain:
        chain.append({"a": 1})
    assert verify_chain(tmp_path / "log", {signer.public_key.keyid}).records == 1


def test_prev_is_the_hash_that_sha256sum_gives_for_the_line_before(log):
    lines = lines_of(log)
    assert json.loads(lines[3])["prev"] == hashlib.sha256(lines[2]).hexdigest()
    assert json.loads(lines[0])["prev"] == START.hash == Position(-1, "0" * 64).hash


def test_a_log_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        verify_chain(tmp_path / "nothing")
