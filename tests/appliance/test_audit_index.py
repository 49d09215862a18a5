"""Searching the trail by its index: what is found, in which order, and that the index is never in the way."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugsky.audit import index
from plugsky.audit.events import Event, record_of
from plugsky.audit.index import INDEX, find
from plugsky.audit.query import Query
from plugsky.audit.site_key import site_key
from plugsky.audit.trail import CHAIN_FILE
from plugsky.core.clock import rfc3339
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles.chain import ChainWriter

BEGIN = datetime(2026, 11, 24, tzinfo=UTC)


class Trail:
    """Chains that are written a record at a time."""

    def __init__(self, root: Path) -> None:
        paths = SitePaths.at(root)
        paths.trust.mkdir(parents=True)
        self.audit = paths.audit
        self._key = site_key(paths)
        self._writers: dict[str, ChainWriter] = {}

    def write(self, second: float, subject: str, *, chain: str = "host.gateway", action: str = "act", **facts) -> None:
        if chain not in self._writers:
            (self.audit / chain).mkdir(parents=True, exist_ok=True)
            self._writers[chain] = ChainWriter(self.audit / chain / CHAIN_FILE, self._key, chain)
        event = Event(action, facts.pop("actor", "root(0)"), subject, facts.pop("outcome", "ok"), facts)
        self._writers[chain].append(record_of(event, rfc3339(BEGIN + timedelta(seconds=second))))

    def found(self, text: str = "", action: str = "", since=None, until=None, *, oldest_first=False) -> list[str]:
        moments = [None if second is None else rfc3339(BEGIN + timedelta(seconds=second)) for second in (since, until)]
        query = Query.parse(text, action, *moments)
        return [record.subject for record in find(self.audit, query, oldest_first=oldest_first)]

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    @property
    def index(self) -> Path:
        return self.audit / INDEX


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    trail = Trail(tmp_path)
    yield trail
    trail.close()


def test_records_of_all_chains_come_in_the_order_of_time(trail: Trail):
    for second in range(6):
        trail.write(second, f"s{second}", chain=("host.gateway", "host.admin")[second % 2])
    assert trail.found() == ["s5", "s4", "s3", "s2", "s1", "s0"]
    assert trail.found(since=2, until=4) == ["s3", "s2"]
    assert trail.found(oldest_first=True, since=4) == ["s4", "s5"]


def test_a_record_is_found_by_the_words_of_its_parts_whatever_their_case(trail: Trail):
    trail.write(1, "job-1", actor="key:AbC", tenant="Treasury of Canberra", endpoint="chat.completions")
    trail.write(2, "job-2", actor="key:def", tenant="treasury-two", status=500)
    assert trail.found("treasury") == ["job-2", "job-1"]
    assert trail.found("CANBERRA key:abc") == ["job-1"]
    assert trail.found("job-1") == ["job-1"]
    assert trail.found("treasu") == []
    assert trail.found("treasu*") == ["job-2", "job-1"]
    assert trail.found("chat.comp*") == ["job-1"]


def test_a_fact_is_asked_for_by_name(trail: Trail):
    trail.write(1, "one", tenant="treasury", status=200, streamed=True)
    trail.write(2, "two", tenant="treasury-two", status=500)
    trail.write(3, "treasury", tenant="other")
    assert trail.found("tenant=treasury") == ["one"]
    assert trail.found("status=500") == ["two"]
    assert trail.found("streamed=true") == ["one"]
    assert trail.found("tenant=Treasury status=500") == []


def test_words_of_every_script_are_found(trail: Trail):
    for number, tenant in enumerate(["Finanzministerium Österreich", "وزارة المالية", "財務省", "Çelik", "strasse"]):
        trail.write(number, f"s{number}", tenant=tenant)
    assert trail.found("österreich") == ["s0"]
    assert trail.found("المالية") == ["s1"]
    assert trail.found("財務省*") == ["s2"]
    assert trail.found("öst*") == ["s0"]
    assert trail.found("str*") == ["s4"]
    assert trail.found("Straße") == ["s4"]


def test_an_action_is_asked_for_whole_or_by_what_stands_before_a_dot(trail: Trail):
    for second, action in enumerate(["key.create", "key.revoke", "keys.other", "key"]):
        trail.write(second, action, action=action)
    assert trail.found(action="key") == ["key", "key.revoke", "key.create"]
    assert trail.found(action="key.create") == ["key.create"]


@pytest.mark.parametrize(("text", "why"), [("--", "no letter"), ("ab*", "at least 3"), ("*", "at least 3")])
def test_what_cannot_be_looked_for_is_said(text: str, why: str):
    with pytest.raises(PlugskyError, match=text.replace("*", r"\*")) as error:
        Query.parse(text)
    assert (error.value.kind, error.value.param) == (ErrorKind.BAD_REQUEST, "text")
    assert why in error.value.why


NAMES = st.sampled_from(["alpha", "beta", "alpha-beta", "gamma", "Älpha", "alphabet", "7"])
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 5),
        NAMES,
        st.sampled_from(["h.a", "h.b"]),
        st.sampled_from(["x", "x.y", "z"]),
        NAMES,
        st.booleans(),
    ),
    max_size=20,
)
ASKED = st.tuples(
    st.sampled_from(["", "alpha", "alp*", "älp*", "tenant=alpha", "beta alpha", "n=1", "7"]),
    st.sampled_from(["", "x", "x.y"]),
    st.none() | st.integers(0, 5),
    st.none() | st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(RECORDS, ASKED)
def test_the_index_finds_what_reading_everything_finds(written, asked):
    with tempfile.TemporaryDirectory() as root:
        trail = Trail(Path(root))
        for second, subject, chain, action, tenant, look in written:
            trail.write(second, subject, chain=chain, action=action, tenant=tenant, n=second)
            if look:
                trail.found()
        text, action, since, until = asked
        moments = [None if second is None else rfc3339(BEGIN + timedelta(seconds=second)) for second in (since, until)]
        query = Query.parse(text, action, *moments)
        found = list(find(trail.audit, query))
        read = list(index._without_index(trail.audit, query, oldest_first=False))
        trail.close()
    assert [r.time for r in found] == sorted((r.time for r in found), reverse=True)
    assert sorted(map(repr, found)) == sorted(map(repr, read))


def test_more_records_than_one_transaction_and_one_millisecond_hold_are_all_found(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(index, "GROUP", 7)
    monkeypatch.setattr(index, "_SHIFT", 2)
    for number in range(40):
        trail.write(1, f"s{number}")
    assert trail.found(oldest_first=True) == [f"s{number}" for number in range(40)]
    trail.write(1, "last")
    assert trail.found()[0] == "last"


def test_a_search_takes_in_only_what_is_new(trail: Trail, monkeypatch: pytest.MonkeyPatch):
    for second in range(5):
        trail.write(second, f"s{second}")
    trail.found()
    taken = []
    take = index._take
    monkeypatch.setattr(index, "_take", lambda *args: taken.append(take(*args)) or taken[-1])
    trail.write(9, "new")
    assert trail.found()[0] == "new"
    assert taken == [1]


def test_a_line_that_is_still_being_written_is_not_there_yet(trail: Trail):
    trail.write(1, "whole")
    trail.close()
    path = trail.audit / "host.gateway" / CHAIN_FILE
    with path.open("ab") as file:
        file.write(b'{"prev":"')
    assert trail.found() == ["whole"]


def test_the_index_of_another_trail_is_made_anew(trail: Trail, tmp_path: Path):
    trail.write(1, "old", tenant="treasury")
    trail.close()
    assert trail.found("treasury") == ["old"]
    shutil.rmtree(trail.audit / "host.gateway")
    trail.write(2, "new", tenant="treasury")
    assert trail.found("treasury") == ["new"]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_broken_index_is_made_anew(trail: Trail, content: bytes):
    trail.write(1, "there")
    trail.found()
    for path in trail.audit.glob(f"{INDEX}?*"):
        path.unlink()
    trail.index.write_bytes(content)
    assert trail.found("there") == ["there"]


def test_an_index_of_another_release_is_made_anew(trail: Trail):
    trail.write(1, "there")
    with sqlite3.connect(trail.index) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    assert trail.found("there") == ["there"]


def test_without_an_index_the_chains_themselves_are_read(trail: Trail, caplog: pytest.LogCaptureFixture):
    for second in range(3):
        trail.write(second, f"s{second}")
    trail.index.mkdir()
    assert trail.found("act") == ["s2", "s1", "s0"]
    assert trail.found("act", oldest_first=True) == ["s0", "s1", "s2"]
    assert "searched without its index" in caplog.text


def test_a_false_index_shows_nothing_false(trail: Trail):
    trail.write(1, "one", tenant="treasury")
    trail.write(2, "two", tenant="other")
    trail.found()
    with sqlite3.connect(trail.index) as forged:
        (number,) = forged.execute("SELECT max(id) FROM line").fetchone()
        forged.execute("INSERT INTO words (rowid, text) VALUES (?, 'treasury')", (number + 1,))
        forged.execute("INSERT INTO line SELECT ?, chain, place FROM line WHERE id = ?", (number + 1, number))
    forged.close()
    assert trail.found("tenant=treasury") == ["one"]


def test_a_damaged_chain_says_so(trail: Trail):
    trail.write(1, "one")
    trail.close()
    path = trail.audit / "host.gateway" / CHAIN_FILE
    path.write_bytes(path.read_bytes().replace(b'"actor":', b'"actor" :'))
    with pytest.raises(PlugskyError) as damaged:
        trail.found()
    assert (damaged.value.kind, damaged.value.next) == (ErrorKind.TAMPERED, "plugsky audit verify")


def test_the_index_is_for_the_site_alone(trail: Trail):
    trail.write(1, "one")
    trail.found()
    assert {path.stat().st_mode & 0o777 for path in trail.audit.glob(f"{INDEX}*")} == {0o600}
