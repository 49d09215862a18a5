"""Writing the audit trail: group commits, refusing disks, competing processes, and what is never written."""

import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fresh_site import fresh_paths
from appliance.hand_clock import HandClock
from plugsky.audit import AuditLog, events, log, site_key, trail
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles import keys
from plugsky_bundles.chain import ChainWriter
from plugsky_bundles.chain_verify import verify_chain

NOTHING: dict[str, events.Fact] = {}


@pytest.fixture
def paths(tmp_path: Path) -> SitePaths:
    return fresh_paths(tmp_path)


@contextmanager
def opened(paths: SitePaths, process: str = "gateway", **options: bool) -> Iterator[AuditLog]:
    audit = AuditLog.open(paths, process, HandClock(), **options)
    try:
        yield audit
    finally:
        audit.close()


def chain(paths: SitePaths, name: str) -> Path:
    return paths.audit / name / trail.CHAIN_FILE


def oldest_first(paths: SitePaths, name: str) -> list[trail.Record]:
    return list(trail.records(paths.audit, name))[::-1]


@contextmanager
def full_disk(path: Path, room: int = 0) -> Iterator[None]:
    """No file of this process may grow beyond ``room`` bytes more than ``path`` has: the kernel refuses the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def whole_again(audit: AuditLog) -> None:
    """Waits until the trail takes records again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            audit.check()
        except PlugskyError:
            assert time.monotonic() < deadline, "the trail never recovered"
            time.sleep(0.01)
        else:
            return


def test_a_record_whose_future_is_done_is_signed_and_in_the_chain(paths: SitePaths):
    with opened(paths) as audit:
        facts: dict[str, events.Fact] = {"days": 3, "scope": None, "shown": True}
        position = audit.append("key.create", "root(0)", "abc", "ok", facts).result()
        report = verify_chain(chain(paths, audit.name), {site_key(paths).public_key.keyid}, open_tail=True)
        assert report.head.seq > position.seq
        assert report.uncommitted == 0
        record = next(r for r in trail.records(paths.audit, audit.name) if r.seq == position.seq)
    assert (record.action, record.actor, record.subject, record.outcome) == ("key.create", "root(0)", "abc", "ok")
    assert record.fields == facts
    assert (record.hash, record.time) == (position.hash, "2026-11-22T17:00:00.000000Z")


def test_many_records_share_few_signatures_in_the_order_they_came(paths: SitePaths):
    with opened(paths) as audit:
        wait([audit.append("test", "me", str(number), "ok", NOTHING) for number in range(500)])
    report = verify_chain(chain(paths, audit.name))
    subjects = [r.subject for r in oldest_first(paths, audit.name) if r.action == "test"]
    assert subjects == [str(number) for number in range(500)]
    assert report.commits < 100


def test_a_waiting_record_is_not_held_up_by_the_group(paths: SitePaths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "GROUP_S", 3600)
    with opened(paths) as audit:
        quiet = audit.append("test", "me", "quiet", "ok", NOTHING)
        assert not quiet.done()
        audit.record("test", "me", "urgent", "ok", NOTHING)
        assert quiet.done()


def test_the_chain_of_a_process_begins_and_ends_with_its_own_records(paths: SitePaths):
    with opened(paths) as audit:
        pass
    assert [r.action for r in oldest_first(paths, audit.name)] == [events.OPEN, events.CLOSE]


def test_an_opened_chain_notes_where_the_others_stand(paths: SitePaths):
    with opened(paths, "admin") as admin, opened(paths, "gateway") as gateway:
        first = oldest_first(paths, gateway.name)[0]
    head = first.fields[f"{events.HEAD_PREFIX}{admin.name}"]
    lines = chain(paths, admin.name).read_bytes().splitlines(keepends=True)
    seq, _, digest = str(head).partition(":")
    assert trail._position(lines[int(seq)]) is not None
    assert trail._position(lines[int(seq)]).hash == digest


def test_a_second_process_is_refused_or_writes_beside(paths: SitePaths):
    with opened(paths, "cli") as first:
        with pytest.raises(PlugskyError) as refused:
            AuditLog.open(paths, "cli", HandClock(), wait_s=0)
        assert refused.value.kind is ErrorKind.CONFLICT
        with opened(paths, "cli", spare=True) as second:
            assert second.name == f"{first.name}-2"
    with opened(paths, "cli", spare=True) as third:
        assert third.name == first.name


def test_what_the_disk_refuses_waits_and_stops_new_work(paths: SitePaths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    with opened(paths) as audit:
        audit.check()
        with full_disk(chain(paths, audit.name)):
            late = audit.append("request.done", "key:a", "job", "stop", NOTHING)
            with pytest.raises(PlugskyError) as refused:
                audit.record("key.create", "root(0)", "abc", "ok", NOTHING)
            assert refused.value.kind is ErrorKind.OVERLOADED
            with pytest.raises(PlugskyError, match="audit trail"):
                audit.check()
            assert not late.done()
        late.result(timeout=30)
        whole_again(audit)
        audit.record("test", "me", "whole again", "ok", NOTHING)
    subjects = [r.subject for r in trail.records(paths.audit, audit.name)]
    assert "job" in subjects
    assert "abc" not in subjects
    verify_chain(chain(paths, audit.name))


def test_a_record_that_was_written_but_not_signed_in_time_is_retracted(
    paths: SitePaths, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    with opened(paths) as audit, full_disk(chain(paths, audit.name), room=400), pytest.raises(PlugskyError):
        audit.record("key.create", "root(0)", "abc", "ok", NOTHING)
    written = list(trail.records(paths.audit, audit.name))
    (made,) = [r for r in written if r.action == "key.create"]
    (retracted,) = [r for r in written if r.action == events.RETRACT]
    assert retracted.subject == f"{audit.name}:{made.seq}"
    verify_chain(chain(paths, audit.name))


def test_a_chain_of_urgent_records_is_whole_again_when_the_disk_has_room(
    paths: SitePaths, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    with opened(paths, "admin") as audit:
        with full_disk(chain(paths, audit.name)):
            for _ in range(2):
                with pytest.raises(PlugskyError):
                    audit.record("key.create", "root(0)", "abc", "ok", NOTHING)
            with pytest.raises(PlugskyError):
                audit.check()
        whole_again(audit)
        audit.record("key.create", "root(0)", "def", "ok", NOTHING)
    found = oldest_first(paths, audit.name)
    assert [r.subject for r in found if r.action == "key.create"] == ["def"]
    (gap,) = [r for r in found if r.action == events.GAP]
    assert gap.fields == {"records": 0, "refused": 2}
    verify_chain(chain(paths, audit.name))


def test_a_sync_that_fails_once_neither_loses_nor_doubles_a_record(paths: SitePaths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    real, failures = os.fdatasync, [OSError(5, "Input/output error")]

    def once(fd: int) -> None:
        if failures:
            raise failures.pop()
        real(fd)

    with opened(paths) as audit:
        monkeypatch.setattr(os, "fdatasync", once)
        audit.append("request.done", "key:a", "job", "stop", NOTHING).result(timeout=30)
        whole_again(audit)
    assert failures == []
    assert [r.subject for r in oldest_first(paths, audit.name) if r.action == "request.done"] == ["job"]
    verify_chain(chain(paths, audit.name))


def test_closing_on_a_full_disk_says_how_many_records_are_lost(paths: SitePaths):
    audit = AuditLog.open(paths, "gateway", HandClock())
    with full_disk(chain(paths, audit.name)):
        audit.append("request.done", "key:a", "job", "stop", NOTHING)
        with pytest.raises(PlugskyError) as lost:
            audit.close()
    assert "2 audit records" in lost.value.what
    with pytest.raises(PlugskyError):
        audit.append("test", "me", "", "ok", NOTHING)


def test_the_queue_is_bounded(paths: SitePaths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "GROUP_S", 3600)
    monkeypatch.setattr(log, "MAX_QUEUE", 3)
    with opened(paths) as audit:
        for _ in range(3):
            audit.append("test", "me", "", "ok", NOTHING)
        with pytest.raises(PlugskyError) as refused:
            audit.append("test", "me", "", "ok", NOTHING)
    assert refused.value.kind is ErrorKind.OVERLOADED


def test_where_policy_allows_it_the_site_serves_on_and_the_gap_is_counted(
    paths: SitePaths, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    monkeypatch.setattr(log, "MAX_QUEUE", 2)
    with opened(paths, serve_without_audit=True) as audit:
        with full_disk(chain(paths, audit.name)):
            futures = [audit.append("request.done", "key:a", str(n), "stop", NOTHING) for n in range(5)]
            with pytest.raises(PlugskyError):
                futures[-1].result(timeout=30)
            audit.check()
        futures[0].result(timeout=30)
    (gap,) = [r for r in trail.records(paths.audit, audit.name) if r.action == events.GAP]
    lost = gap.fields["records"]
    kept = [r for r in trail.records(paths.audit, audit.name) if r.action == "request.done"]
    assert isinstance(lost, int)
    assert len(kept) + lost == 5


@pytest.mark.integration
def test_a_killed_process_leaves_a_chain_that_the_next_one_continues(paths: SitePaths):
    program = f"""
        import os, signal
        from pathlib import Path
        from appliance.hand_clock import HandClock
        from plugsky.audit import AuditLog
        from plugsky.core.paths import SitePaths
        log = AuditLog.open(SitePaths.at(Path({str(paths.root)!r})), "gateway", HandClock())
        log.record("test", "me", "committed", "ok", {{}})
        for number in range(2000):
            log.append("test", "me", str(number), "ok", {{}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    tests = str(Path(__file__).parents[1])
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{textwrap.dedent(program)}"], check=False
    )
    assert child.returncode == -signal.SIGKILL
    with opened(paths) as audit:
        audit.record("test", "me", "after", "ok", NOTHING)
    verify_chain(chain(paths, audit.name), {site_key(paths).public_key.keyid})
    subjects = [r.subject for r in oldest_first(paths, audit.name) if r.action == "test"]
    assert subjects == ["committed", *map(str, range(2000)), "after"], "what was appended survives the process"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"share": 0.5}, TypeError),
        ({"list": [1]}, TypeError),
        ({"huge": 1 << 60}, ValueError),
        ({str(number): 1 for number in range(65)}, ValueError),
    ],
    ids=["a fraction", "a list", "a number beyond 2^53", "too many facts"],
)
def test_facts_without_an_exact_form_are_refused_where_they_are_made(paths: SitePaths, fields: dict, error: type):
    with opened(paths) as audit:
        with pytest.raises(error):
            audit.append("test", "me", "", "ok", fields)
        audit.check()


def test_text_from_outside_is_escaped_and_cut(paths: SitePaths):
    with opened(paths) as audit:
        audit.record("test", "me\x1b[2J", "x" * 5000, "o\nk", {"model\u202e": "lone \ud800"})
        (record,) = [r for r in trail.records(paths.audit, audit.name) if r.action == "test"]
    assert record.actor == "me\\x1b[2J"
    assert len(record.subject) == 601
    assert record.outcome == "o\\nk"
    assert record.fields == {"model\\u202e": "lone \\ud800"}


def test_a_search_gives_the_newest_first_and_looks_everywhere(paths: SitePaths):
    clock = HandClock()
    for process in ("admin", "gateway"):
        audit = AuditLog.open(paths, process, clock)
        for number in range(3):
            clock.pass_(seconds=1)
            audit.record(f"{process}.act", "Root(0)", f"s{number}", "ok", {"tenant": "Treasury"})
        audit.close()
    found = trail.search(paths.audit, action="admin.act")
    assert [r.subject for r in found] == ["s2", "s1", "s0"]
    assert [r.subject for r in trail.search(paths.audit, action="gateway", limit=2)] == ["s2", "s1"]
    assert len(trail.search(paths.audit, text="treasury")) == 6
    assert len(trail.search(paths.audit, text="ROOT(0)", since=found[0].time)) == 4
    assert trail.search(paths.audit, text="no such thing") == ()


def test_a_search_finds_what_lies_behind_a_recovery(paths: SitePaths):
    clock = HandClock()
    for process in ("gateway", "admin"):
        audit = AuditLog.open(paths, process, clock)
        clock.pass_(seconds=1)
        audit.record("test", "me", f"{process} before", "ok", NOTHING)
        audit.close()
    with chain(paths, f"{log.host_name()}.gateway").open("ab") as torn:
        torn.write(b"torn")
    audit = AuditLog.open(paths, "gateway", clock)
    (last, *_) = trail.search(paths.audit, action=events.OPEN)
    audit.close()
    found = trail.search(paths.audit)
    (recovered,) = [r for r in found if r.action == "chain.recovered"]
    assert recovered.time == last.time
    assert [r.subject for r in trail.search(paths.audit, action="test")] == ["admin before", "gateway before"]
    assert [r.time for r in found] == sorted((r.time for r in found), reverse=True)
    assert recovered in trail.search(paths.audit, since=last.time)


def test_a_recovery_at_the_end_of_a_chain_has_the_time_of_the_record_before_it(paths: SitePaths):
    with opened(paths) as audit:
        name = audit.name
    with chain(paths, name).open("ab") as torn:
        torn.write(b"torn")
    ChainWriter(chain(paths, name), site_key(paths), name).close()
    recovered, before, *_ = trail.records(paths.audit, name)
    assert (recovered.action, recovered.time) == ("chain.recovered", before.time)


def test_a_search_in_a_damaged_chain_says_so(paths: SitePaths):
    with opened(paths) as audit:
        pass
    path = chain(paths, audit.name)
    path.write_bytes(path.read_bytes().replace(b'"actor":"site"', b'"actor" :"x"'))
    with pytest.raises(PlugskyError) as damaged:
        trail.search(paths.audit)
    assert (damaged.value.kind, damaged.value.next) == (ErrorKind.TAMPERED, "plugsky audit verify")


def test_a_site_without_a_trail_has_no_records(paths: SitePaths):
    assert trail.search(paths.audit) == ()
    assert trail.newest_commit(paths.audit / "nowhere") is None


def test_the_newest_signature_is_found_far_from_the_end(paths: SitePaths, tmp_path: Path):
    with opened(paths) as audit:
        audit.record("test", "me", "", "ok", NOTHING)
    whole = chain(paths, audit.name).read_bytes()
    expected = trail.newest_commit(chain(paths, audit.name))
    long = tmp_path / "long"
    long.write_bytes(whole + b'{"prev":"","record":{}}\n' * 40_000)
    assert trail.newest_commit(long) == expected


def test_the_sites_key_is_made_once_and_closed_to_others(paths: SitePaths):
    first = site_key(paths).public_key.keyid
    assert site_key(paths).public_key.keyid == first
    assert (paths.trust / "site-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_chain_of_another_key_is_not_continued(paths: SitePaths):
    with opened(paths):
        pass
    keys.save(paths.trust / "site-key.pem", keys.generate(), None)
    with pytest.raises(PlugskyError) as refused:
        AuditLog.open(paths, "gateway", HandClock())
    assert "belongs to someone else" in refused.value.what or "was begun by" in refused.value.why


def test_a_lost_key_of_a_site_that_has_chains_is_never_made_again_in_silence(paths: SitePaths):
    with opened(paths):
        pass
    (paths.trust / "site-key.pem").unlink()
    with pytest.raises(PlugskyError, match="is gone") as refused:
        AuditLog.open(paths, "gateway", HandClock())
    assert "plugsky trust reset request" in refused.value.next
    assert not (paths.trust / "site-key.pem").exists()


@given(text=st.binary(max_size=60).map(lambda b: b.replace(b"a", b"\n")), step=st.integers(1, 7))
def test_lines_are_read_backwards_as_they_stand_but_for_a_torn_last(text: bytes, step: int):
    before, trail._STEP = trail._STEP, step
    try:
        found = list(trail._lines_backwards(io.BytesIO(text)))
    finally:
        trail._STEP = before
    whole = [line + b"\n" for line in text.split(b"\n")[:-1]]
    assert found == whole[::-1]
