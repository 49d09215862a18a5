"""Jobs by id: a submit sent twice runs once, a final outlives its connection, nothing grows without bound."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Finish, Usage
from plugsky.engine import jobs
from plugsky.engine.errors import EngineError
from plugsky.engine.jobs import JobTable

DONE = Finish(reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2))


@pytest.fixture
def table():
    return JobTable[str]()


def test_a_job_that_runs_cannot_be_claimed_again(table):
    table.claim("job", "first", 1)
    with pytest.raises(EngineError) as refusal:
        table.claim("job", "second", 1)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.CONFLICT, "job")


def test_a_request_number_in_use_cannot_be_used_again(table):
    table.claim("job", "first", 1)
    with pytest.raises(EngineError) as refusal:
        table.claim("other", "first", 1)
    assert refusal.value.param == "rid"


def test_a_job_that_ended_gives_its_final_and_runs_nothing(table):
    run = table.claim("job", "first", 1)
    table.finish(run.ticket, DONE)
    table.leave("first")
    assert table.claim("job", "second", 5).final == DONE
    assert table.live == 0


def test_an_acknowledged_job_is_forgotten(table):
    run = table.claim("job", "first", 1)
    table.finish(run.ticket, DONE)
    table.acknowledge("job")
    assert table.unacknowledged == 0
    assert table.claim("job", "first", 2).final is None


def test_acknowledging_a_job_that_runs_or_is_unknown_changes_nothing(table):
    table.claim("job", "first", 1)
    table.acknowledge("job")
    table.acknowledge("unknown")
    assert table.live == 1


def test_the_job_of_a_lost_connection_runs_anew_beside_its_orphan(table):
    orphan = table.claim("job", "first", 1)
    assert table.leave("first") == [orphan.ticket]
    anew = table.claim("job", "second", 1)
    assert anew.ticket != orphan.ticket
    table.finish(orphan.ticket, DONE)
    assert table.get(anew.ticket) is anew
    table.finish(anew.ticket, DONE)
    assert (table.live, table.unacknowledged) == (0, 1)


def test_an_orphans_final_is_not_kept(table):
    run = table.claim("job", "first", 1)
    table.leave("first")
    table.finish(run.ticket, DONE)
    assert (table.live, table.unacknowledged) == (0, 0)


def test_a_job_that_failed_can_be_claimed_again(table):
    run = table.claim("job", "first", 1)
    table.drop(run.ticket)
    assert table.claim("job", "first", 2).final is None


def test_the_oldest_finals_go_when_nobody_acknowledges(table, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_FINALS", 3)
    for number in range(5):
        table.finish(table.claim(f"job {number}", "first", number).ticket, DONE)
    assert table.unacknowledged == 3
    assert table.claim("job 0", "first", 9).final is None
    assert table.claim("job 4", "first", 10).final == DONE
