"""Wishes to the ledger that wait together share a transaction; what goes wrong with one is that one's alone."""

import asyncio
import threading

import pytest
from sqlalchemy import event

from appliance.fresh_site import fresh_database
from appliance.hand_clock import HandClock
from plugsky.access.ledger import Ledger
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Usage
from plugsky.core.principal import Principal
from plugsky.server.ledger_thread import LedgerThread
from plugsky.state import Tenant

ACME = Principal("acme", "aaaaaaaa")


class Site:
    def __init__(self, path):
        self.database = fresh_database(path)
        with self.database.write() as session:
            session.add(Tenant(id="acme", created_us=0, monthly_tokens=1000))
        self.ledger = Ledger(self.database, HandClock(), "host.gateway")
        self.thread = LedgerThread(self.ledger)
        self.commits = 0
        event.listen(self.database.engine, "commit", self._committed)

    def _committed(self, _connection):
        self.commits += 1

    def busy(self):
        """Let the thread wait for an event, so that what is wished meanwhile waits together."""
        go = threading.Event()
        return asyncio.ensure_future(self.thread.do(lambda _: go.wait(10))), go

    def reserve(self, job, tokens=10):
        return self.thread.do(lambda turn: reserving(turn, job, tokens))

    def jobs(self):
        with self.database.read() as session:
            return {job for (job,) in session.connection().exec_driver_sql("select job from ledgerentry")}


def reserving(turn, job, tokens=10):
    return turn.reserve(job=job, principal=ACME, requested_model="m", model="m", digest="d" * 64, tokens=tokens)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "site.db")
    yield site
    site.thread.close()
    site.database.close()


async def together(site, *wishes):
    """How these ended that waited at the same time."""
    first, go = site.busy()
    await asyncio.sleep(0.05)
    waiting = [asyncio.ensure_future(wish) for wish in wishes]
    await asyncio.sleep(0.05)
    go.set()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_waits_together_is_written_in_one_transaction(site):
    results = await together(site, *(site.reserve(f"job-{number}") for number in range(20)))
    assert [each.job for each in results] == [f"job-{number}" for number in range(20)]
    assert site.commits == 2
    assert site.ledger.month("acme") == (200, 1000)


async def test_a_wish_alone_waits_for_no_company(site):
    async with asyncio.timeout(5):
        assert (await site.reserve("alone")).tokens == 10


async def test_one_that_is_refused_changes_nothing_and_the_others_stand(site):
    results = await together(
        site, site.reserve("one"), site.reserve("greedy", 5000), site.reserve("one"), site.reserve("two")
    )
    assert [getattr(each, "kind", None) for each in results] == [
        None, ErrorKind.QUOTA_EXHAUSTED, ErrorKind.CONFLICT, None,
    ]  # fmt: skip
    assert site.jobs() == {"one", "two"}
    assert site.ledger.month("acme") == (20, 1000)


async def test_one_that_breaks_the_transaction_fails_alone_and_leaves_no_trace(site):
    def broken(turn):
        reserving(turn, "broken")
        raise ZeroDivisionError

    results = await together(site, site.reserve("one"), site.thread.do(broken), site.reserve("two"))
    assert isinstance(results[1], ZeroDivisionError)
    assert site.jobs() == {"one", "two"}
    assert site.ledger.month("acme") == (20, 1000)


async def test_where_the_database_takes_nothing_now_all_fail_and_may_come_again(site):
    def full(_connection):
        if site.commits > 1:
            raise PlugskyError(ErrorKind.OVERLOADED, "the disk is full")

    event.listen(site.database.engine, "commit", full)
    results = await together(site, site.reserve("one"), site.reserve("two"))
    event.remove(site.database.engine, "commit", full)
    assert [each.kind for each in results] == [ErrorKind.OVERLOADED] * 2
    assert site.jobs() == set()
    await asyncio.gather(site.reserve("one"), site.reserve("two"))
    assert site.ledger.month("acme") == (20, 1000)


async def test_what_follows_comes_after_the_transaction_and_its_failure_is_told(site):
    seen = []

    def follow(reservation):
        seen.append((reservation.job, site.jobs()))
        raise PlugskyError(ErrorKind.OVERLOADED, "the trail stands still")

    with pytest.raises(PlugskyError) as failed:
        await site.thread.do(lambda turn: reserving(turn, "one"), follow)
    assert failed.value.what == "the trail stands still"
    assert seen == [("one", {"one"})]


async def test_a_wish_whose_asker_left_before_its_turn_is_not_done(site):
    first, go = site.busy()
    await asyncio.sleep(0.05)
    leaving = asyncio.ensure_future(site.reserve("left"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    go.set()
    await first
    await site.reserve("stays")
    assert site.jobs() == {"stays"}


async def test_closing_does_what_was_wished_before(site):
    wishes = [asyncio.ensure_future(site.reserve(f"job-{number}")) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(site.thread.close)
    await asyncio.gather(*wishes)
    assert len(site.jobs()) == 5
    site.thread = LedgerThread(site.ledger)


async def test_a_key_is_marked_used_once_however_many_of_its_requests_are_settled_together(site):
    statements = []
    jobs = [f"job-{number}" for number in range(6)]
    await asyncio.gather(*map(site.reserve, jobs))
    event.listen(site.database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    settled = (site.thread.do(lambda turn, job=job: turn.settle(job, Usage(3, 4), "stop")) for job in jobs)
    results = await together(site, *settled)
    assert {row.state for row in results} == {"settled"}
    assert sum(statement.startswith("UPDATE apikey") for statement in statements) == 1
    assert site.ledger.month("acme") == (42, 1000)
