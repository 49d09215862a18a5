"""The usage ledger: reservations, settlements, budgets, and what a crash leaves."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlmodel import col

from appliance.hand_clock import HandClock
from plugsky.access import quota
from plugsky.access.ledger import Ledger, UsageLine
from plugsky.access.ledger_turn import LedgerRow
from plugsky.core.clock import unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Usage
from plugsky.core.principal import Principal
from plugsky.state import ApiKey, Database, LedgerEntry, Tenant, TenantMonth, open_database


class Books:
    def __init__(self, where: Path | str) -> None:
        self.clock = HandClock()
        self.database: Database = open_database(where)
        self.ledger = Ledger(self.database, self.clock, "host.gateway")
        self.tenant("demo")

    def tenant(self, name: str, budget: int | None = None) -> Principal:
        with self.database.write() as session:
            tenant = session.get(Tenant, name) or Tenant(id=name, created_us=0)
            tenant.monthly_tokens = budget
            session.add(tenant)
            session.flush()
            if session.get(ApiKey, f"key-{name}") is None:
                session.add(ApiKey(id=f"key-{name}", tenant=name, digest=b"", created_us=0))
        return Principal(name, f"key-{name}")

    def reserve(self, job: str, tokens: int = 100, tenant: str = "demo", model: str = "m"):
        return self.ledger.reserve(
            job=job,
            principal=Principal(tenant, f"key-{tenant}"),
            requested_model=model,
            model=model,
            digest="d" * 64,
            tokens=tokens,
        )

    def sums(self, tenant: str = "demo", month: str = "2026-11") -> tuple[int, int]:
        with self.database.read() as session:
            row = session.get(TenantMonth, (tenant, month))
            return (row.used, row.reserved) if row else (0, 0)


@pytest.fixture
def books(where: Path | str) -> Iterator[Books]:
    books = Books(where)
    yield books
    books.database.close()


def test_a_request_is_reserved_topped_up_and_settled(books: Books):
    assert books.reserve("j1", 100).tokens == 100
    assert books.ledger.top_up("j1", 50).tokens == 150
    assert books.sums() == (0, 150)
    row = books.ledger.settle("j1", Usage(10, 20, 3, 4000), "stop")
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.engine_us) == (10, 20, 3, 4000)
    assert (row.state, row.outcome, row.writer) == ("settled", "stop", "host.gateway")
    assert books.sums() == (30, 0)


def test_settling_marks_when_the_key_was_last_used(books: Books):
    books.reserve("j1")
    row = books.ledger.settle("j1", Usage(1, 1), "stop")
    with books.database.read() as session:
        assert session.get_one(ApiKey, "key-demo").last_used_us == row.settled_us == unix_us(books.clock.now())


def test_settling_twice_with_the_same_counts_is_settling_once(books: Books):
    books.reserve("j1")
    first = books.ledger.settle("j1", Usage(1, 2), "stop")
    books.clock.pass_(seconds=5)
    assert books.ledger.settle("j1", Usage(1, 2), "stop") == first
    assert books.sums() == (3, 0)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda b: b.reserve("done"), ErrorKind.CONFLICT),
        (lambda b: b.ledger.top_up("done", 1), ErrorKind.CONFLICT),
        (lambda b: b.ledger.settle("done", Usage(9, 9), "stop"), ErrorKind.CONFLICT),
        (lambda b: b.ledger.top_up("unknown", 1), ErrorKind.NOT_FOUND),
        (lambda b: b.ledger.settle("unknown", Usage(1, 1), "stop"), ErrorKind.NOT_FOUND),
    ],
    ids=["reserve again", "top up what is closed", "settle with other counts", "top up nothing", "settle nothing"],
)
def test_what_does_not_fit_the_life_of_an_entry_changes_nothing(books: Books, act, kind: ErrorKind):
    books.reserve("done")
    books.ledger.settle("done", Usage(1, 2), "stop")
    with pytest.raises(PlugskyError) as refused:
        act(books)
    assert refused.value.kind is kind
    assert books.sums() == (3, 0)


def test_a_budget_refuses_with_its_numbers_and_when_it_begins_anew(books: Books):
    books.tenant("demo", budget=100)
    books.reserve("j1", 60)
    with pytest.raises(PlugskyError) as refused:
        books.reserve("j2", 41)
    assert refused.value.kind is ErrorKind.QUOTA_EXHAUSTED
    for number in ("41 tokens asked", "0 used", "60 reserved of 100", "2026-12-01T00:00:00.000000Z"):
        assert number in refused.value.why
    books.reserve("j3", 40)
    with pytest.raises(PlugskyError):
        books.ledger.top_up("j1", 1)
    assert books.sums() == (0, 100)


def test_what_was_reserved_and_not_used_is_free_again(books: Books):
    books.tenant("demo", budget=100)
    books.reserve("j1", 100)
    books.ledger.settle("j1", Usage(1, 1), "cancelled")
    books.reserve("j2", 98)


def test_a_new_month_begins_a_new_budget(books: Books):
    books.tenant("demo", budget=100)
    books.reserve("j1", 100)
    books.clock.pass_(days=10)
    books.reserve("j2", 100)
    books.ledger.settle("j1", Usage(50, 50), "stop")
    assert books.sums(month="2026-11") == (100, 0)
    assert books.sums(month="2026-12") == (0, 100)


def test_one_tenants_budget_is_not_anothers(books: Books):
    books.tenant("demo", budget=10)
    books.tenant("other")
    books.reserve("j1", 1000, tenant="other")
    books.reserve("j2", 10)


def test_many_requests_at_once_cannot_overdraw_a_budget_together(books: Books):
    books.tenant("demo", budget=500)
    admitted: list[str] = []

    def ask(worker: int) -> None:
        for number in range(5):
            with suppress(PlugskyError):
                admitted.append(books.reserve(f"j{worker}-{number}", 50).job)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 10
    assert books.sums() == (0, 500)


def test_a_crash_leaves_reservations_that_only_their_writer_recovers(books: Books):
    books.reserve("j1", 100)
    other = Ledger(books.database, books.clock, "host.gateway-2")
    assert other.recover() == ()
    (row,) = Ledger(books.database, books.clock, "host.gateway").recover()
    assert (row.job, row.state, row.prompt_tokens, row.completion_tokens) == ("j1", "recovered", 0, 0)
    assert books.sums() == (0, 0)
    assert books.ledger.recover() == ()


def test_a_recovered_job_cannot_be_settled_behind_the_records_back(books: Books):
    books.reserve("j1")
    books.ledger.recover()
    with pytest.raises(PlugskyError) as refused:
        books.ledger.settle("j1", Usage(1, 1), "stop")
    assert refused.value.kind is ErrorKind.CONFLICT


def test_a_report_sums_settled_usage_by_tenant_key_and_model(books: Books):
    books.tenant("other")
    for job, tenant, model, usage in (
        ("a", "demo", "m1", Usage(1, 2, 1, 10)),
        ("b", "demo", "m1", Usage(10, 20, 0, 100)),
        ("c", "demo", "m2", Usage(5, 5, 5, 50, 4, 3)),
        ("d", "other", "m1", Usage(7, 7, 0, 70)),
    ):
        books.reserve(job, tenant=tenant, model=model)
        books.ledger.settle(job, usage, "stop")
    books.reserve("open")
    report = books.ledger.report()
    assert report.lines == (
        UsageLine("demo", "key-demo", "m1", 2, 11, 1, 22, 0, 0, 110),
        UsageLine("demo", "key-demo", "m2", 1, 5, 5, 5, 4, 3, 50),
        UsageLine("other", "key-other", "m1", 1, 7, 0, 7, 0, 0, 70),
    )
    assert report.open_reservations == 1
    assert books.ledger.report(tenant="other").lines == report.lines[2:]
    assert books.ledger.report(tenant="other").open_reservations == 0


def test_a_period_holds_its_beginning_and_not_its_end(books: Books):
    moments = []
    for job in ("a", "b", "c"):
        books.reserve(job)
        moments.append(books.ledger.settle(job, Usage(1, 1), "stop").settled_us)
        books.clock.pass_(seconds=1)
    report = books.ledger.report(since_us=moments[1], until_us=moments[2])
    assert [line.requests for line in report.lines] == [1]


def test_the_closed_entries_are_read_oldest_first_from_a_moment_on(books: Books):
    rows: list[LedgerRow] = []
    for job in ("c", "b", "a"):
        books.reserve(job)
        rows.append(books.ledger.settle(job, Usage(1, 1), "stop"))
        books.clock.pass_(seconds=1)
    books.reserve("open")
    assert list(books.ledger.closed()) == rows
    assert list(books.ledger.closed(rows[1].settled_us)) == rows[1:]


@pytest.mark.parametrize(
    ("moment", "month", "after"),
    [
        (datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC), "2026-11", datetime(2026, 12, 1, tzinfo=UTC)),
        (datetime(2026, 12, 1, tzinfo=UTC), "2026-12", datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2024, 2, 29, tzinfo=UTC), "2024-02", datetime(2024, 3, 1, tzinfo=UTC)),
    ],
)
def test_months_are_those_of_utc(moment: datetime, month: str, after: datetime):
    assert (quota.month_of(moment), quota.next_month(moment)) == (month, after)


COUNTS = st.integers(0, 200)
STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "top_up", "settle", "recover", "month"]), st.integers(0, 5), COUNTS),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_after_any_steps_the_months_sums_are_those_of_the_entries(tmp_path_factory, steps):
    books = Books(tmp_path_factory.mktemp("books") / "site.db")
    books.tenant("demo", budget=600)
    for what, number, count in steps:
        job = f"j{number}"
        with suppress(PlugskyError):
            match what:
                case "reserve":
                    books.reserve(job, count)
                case "top_up":
                    books.ledger.top_up(job, count)
                case "settle":
                    books.ledger.settle(job, Usage(count // 2, count // 3), "stop")
                case "recover":
                    books.ledger.recover()
                case "month":
                    books.clock.pass_(days=1)
    with books.database.read() as session:
        for month in ("2026-11", "2026-12"):
            entries = session.scalars(select(LedgerEntry).where(col(LedgerEntry.month) == month)).all()
            reserved = sum(e.reserved_tokens for e in entries if e.state == "reserved")
            used = sum(e.prompt_tokens + e.completion_tokens for e in entries)
            assert books.sums(month=month) == (used, reserved)
    books.database.close()
