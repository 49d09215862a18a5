"""Jobs by id: a submit sent twice runs once, a final outlives its connection, nothing grows without bound."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Finish, StepItem, TokenLogprob, Usage
from plugsky.engine.errors import EngineError
from plugsky.engine.serving import jobs
from plugsky.engine.serving.jobs import JobTable

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


def ended(table, job, *items, resumed=0):
    run = table.claim(job, "first", 1, resumed)
    run.answer += items
    table.finish(run.ticket, DONE)
    return run


REST = {
    "who had nothing gets all": (0, 0, (7, 8, 9), "abc"),
    "who had some gets the rest": (0, 1, (8, 9), "bc"),
    "who had all gets the final": (0, 3, (), ""),
    "what the run was given counts": (5, 6, (8, 9), "bc"),
}


@pytest.mark.parametrize(("resumed", "had", "ids", "text"), REST.values(), ids=REST.keys())
def test_an_ended_job_is_repeated_from_where_the_claimant_is(table, resumed, had, ids, text):
    ended(table, "job", StepItem(1, (7,), "a"), StepItem(1, (8,), "b"), StepItem(1, (9,), "c"), resumed=resumed)
    assert table.claim("job", "second", 5, had).rest(5, had) == StepItem(5, ids, text, final=DONE)


def test_who_lacks_log_probabilities_of_the_prompt_has_the_job_run_anew(table):
    run = table.claim("job", "first", 1)
    run.told(StepItem(1, prompt_logprobs=(TokenLogprob(-1.0), TokenLogprob(-2.0))))
    run.told(StepItem(1, (7,), "a"))
    table.finish(run.ticket, DONE)
    assert run.answer == [StepItem(1, (7,), "a")]
    assert table.claim("job", "second", 5, 0, 2) is run
    anew = table.claim("job", "second", 5, 0, 1)
    assert (anew.final, anew.scored, table.unacknowledged) == (None, 1, 0)


def test_the_oldest_answers_go_when_too_many_tokens_are_kept(table, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_TOKENS", 5)
    for job in ("one", "two", "three"):
        ended(table, job, StepItem(1, (1, 2), "ab"))
    assert table.unacknowledged == 2
    assert table.claim("one", "second", 9).final is None
    table.acknowledge("two")
    ended(table, "four", StepItem(1, (1, 2), "ab"))
    assert table.unacknowledged == 2


def test_what_an_orphan_made_is_not_kept(table):
    run = table.claim("job", "first", 1)
    run.answer.append(StepItem(1, (7,), "a"))
    table.leave("first")
    assert run.answer == []


def test_a_job_is_its_tenants_alone_while_it_runs_and_when_it_has_ended():
    table = JobTable()
    run = table.claim("job", "first", 1, tenant="acme")
    for _ in ("running", "ended"):
        with pytest.raises(EngineError) as refusal:
            table.claim("job", "second", 1, tenant="rival")
        assert (refusal.value.kind, refusal.value.param) == (ErrorKind.CONFLICT, "job")
        if table.live:
            table.finish(run.ticket, DONE)
    assert table.claim("job", "second", 1, tenant="acme").final == DONE
