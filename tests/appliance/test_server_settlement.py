"""The life of a request: whatever happens to it, the books are right afterwards."""

import asyncio
import contextlib
import hashlib
import json
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from appliance.api_site import LIMITS, MODEL, ApiSite, until
from appliance.scripted_engine import DIGEST, IMAGE_TOKENS
from plugsky.access.ledger_turn import Turn
from plugsky.admin.recovery import recover
from plugsky.audit import events
from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server import exchange, settlement
from plugsky.state import LedgerEntry, Tenant

MESSAGES = [{"role": "user", "content": "how wide is it"}]
LONG = tuple(f"w{number} " for number in range(60))


@pytest.fixture
async def site(tmp_path, where):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), where=where) as running:
            yield running


async def stream(site, **options):
    return await site.client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **options)


async def read(chunks):
    """The pieces of a stream, and the failure in it or None."""
    pieces = []
    try:
        async for chunk in chunks:
            pieces += [choice.delta.content for choice in chunk.choices]
    except openai.APIError as failure:
        return pieces, failure
    return pieces, None


def tokens(row):
    return row.prompt_tokens, row.completion_tokens, row.outcome


def reserved(site, job):
    with site.database.read() as session:
        return session.get(LedgerEntry, job).reserved_tokens


async def test_a_request_is_settled_and_recorded_with_the_engines_counts(site):
    site.with_engine(cached=2)
    given = await site.client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, user="ann")
    (row,) = site.rows()
    assert tokens(row) == (4, 4, "stop")
    assert (row.cached_tokens, row.engine_us, row.end_user, row.tenant) == (2, 4000, "ann", "acme")
    assert (row.requested_model, row.model, row.digest) == (MODEL, MODEL, DIGEST)
    (record,) = site.records(events.REQUEST)
    assert (record.subject, record.outcome, record.actor) == (row.job, "stop", f"key:{row.key_id}")
    assert (record.fields["prompt_tokens"], record.fields["completion_tokens"]) == (4, 4)
    said, sent = hashlib.sha256(b"The sea is wide.").digest(), hashlib.sha256(given.http_request.content).digest()
    assert record.fields["answer_hmac"] == site.keys.keyed(said)
    assert record.fields["request_hmac"] == site.keys.keyed(sent)
    shown = json.dumps(record.fields)
    assert not [word for word in ("sea", said.hex(), sent.hex()) if word in shown]
    await until(lambda: site.engine.acknowledged == [row.job])


async def test_a_client_that_saw_the_end_finds_it_billed(site):
    seen = []
    async for chunk in await stream(site):
        if chunk.choices[0].finish_reason is not None:
            seen += [tokens(row) for row in site.rows()]
    assert seen == [(4, 4, "stop")]


async def test_usage_is_counted_also_when_the_client_did_not_ask(site):
    async for _ in await stream(site):
        pass
    assert tokens(site.rows()[0]) == (4, 4, "stop")


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_that_hangs_up_cancels_its_request_and_pays_for_what_was_made(site, streaming):
    site.with_engine(hold_after=2)
    asking = asyncio.ensure_future(site.ask(stream=streaming))
    await until(lambda: site.gateway.flights.traffic().completion_tokens == 2)
    if streaming:
        await (await asking).close()
    else:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    await site.settled()
    assert site.engine.cancels == 1
    assert tokens(site.rows()[0]) == (4, 2, "cancelled")
    assert [record.fields["completion_tokens"] for record in site.records(events.REQUEST)] == [2]
    assert site.ledger.report().open_reservations == 0


async def test_an_operator_ends_a_request_and_the_client_is_told(site):
    site.with_engine(hold_after=1)
    running = await stream(site)
    await until(lambda: site.gateway.flights.traffic().running == 1)
    (view,) = site.gateway.flights.requests()
    assert (view.tenant, view.model, view.state, view.prompt_tokens) == ("acme", MODEL, "decode", 4)
    assert site.gateway.flights.cancel(view.job, "operator")
    _, failure = await read(running)
    assert failure.code == "cancelled"
    assert tokens(site.rows()[0]) == (4, 1, "cancelled")
    assert not site.gateway.flights.cancel(view.job, "operator")


async def test_an_answer_goes_on_after_its_engine_died_and_is_billed_once(site):
    site.with_engine(die_after=2, deaths=1)
    pieces, failure = await read(await stream(site))
    assert (pieces, failure) == (["", "The ", "sea ", "is ", "wide.", None], None)
    assert tokens(site.rows()[0]) == (4, 4, "stop")
    assert site.engine.connections == 2
    assert site.engine.submits[1].resume_tokens == (0, 1)
    assert len({submit.job for submit in site.engine.submits}) == 1
    await until(lambda: site.engine.acknowledged == [site.rows()[0].job])


async def test_an_answer_about_an_image_goes_on_after_its_engine_died(site):
    site.with_engine(die_after=2, deaths=1, keeps_images=True)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    pieces, failure = await read(await site.client.chat.completions.create(model=MODEL, messages=asked, stream=True))
    assert (pieces, failure) == (["", "The ", "sea ", "is ", "wide.", None], None)
    assert tokens(site.rows()[0]) == (4 + IMAGE_TOKENS, 4, "stop")
    assert site.rows()[0].image_tokens == IMAGE_TOKENS


async def test_a_prompt_that_kills_the_engine_twice_alone_fails_is_billed_as_received_and_kept_out(site):
    site.with_engine(die_after=2)
    pieces, failure = await read(await stream(site))
    assert pieces == ["", "The ", "sea "]
    assert failure.code == "internal_error"
    assert "ended the model's engine twice" in failure.message
    assert tokens(site.rows()[0]) == (4, 2, "internal")
    submits = len(site.engine.submits)
    site.with_engine(die_after=None)
    with pytest.raises(openai.InternalServerError):
        await site.ask()
    assert len(site.engine.submits) == submits
    other = await site.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "and how deep is the sea"}]
    )
    assert other.usage.completion_tokens == 4


async def test_a_connection_lost_again_and_again_is_an_error_in_the_stream_and_billed_as_received(site):
    site.with_engine(die_after=2, cut_only=True)
    pieces, failure = await read(await stream(site))
    assert failure.code == "engine_lost"
    assert pieces == ["", "The ", "sea "]
    assert tokens(site.rows()[0]) == (4, 2, "engine_lost")
    site.with_engine(die_after=None)
    assert (await site.ask()).usage.completion_tokens == 4


async def test_an_engine_lost_before_its_first_token_costs_nothing(site):
    site.with_engine(die_after=0, cut_only=True)
    with pytest.raises(openai.InternalServerError) as lost:
        await site.ask()
    assert (lost.value.status_code, lost.value.code) == (503, "engine_lost")
    assert tokens(site.rows()[0]) == (0, 0, "engine_lost")


async def test_a_long_answer_is_topped_up_step_by_step(site):
    site.with_engine(pieces=LONG, hold_after=30)
    asking = asyncio.ensure_future(site.ask(max_tokens=60))
    await until(lambda: site.gateway.flights.traffic().completion_tokens == 30)
    (flight,) = site.gateway.flights.requests()
    await until(lambda: reserved(site, flight.job) == 4 + 5 * LIMITS.reserve_step)
    site.engine.release.set()
    assert (await asking).usage.completion_tokens == 60
    assert tokens(site.rows()[0]) == (4, 60, "stop")
    assert reserved(site, flight.job) == 4 + 60


async def test_a_budget_that_ends_in_the_middle_ends_the_stream_with_that_error(site):
    with site.database.write() as session:
        session.get(Tenant, "acme").monthly_tokens = 4 + 8 + 8
    site.with_engine(pieces=LONG, hold_after=20)
    pieces, failure = await read(await stream(site, max_tokens=60))
    assert failure.code == "insufficient_quota"
    assert len(pieces) > 8
    (row,) = site.rows()
    assert (row.outcome, row.completion_tokens) == ("quota_exhausted", len(pieces) - 1)
    assert site.ledger.report().open_reservations == 0


@pytest.mark.parametrize("room", ["ledger", "trail"])
async def test_books_that_fail_for_a_moment_take_the_settlement_all_the_same(site, monkeypatch, room):
    monkeypatch.setattr(settlement, "FIRST_PAUSE_S", 0.01)
    holder, name = (Turn, "settle") if room == "ledger" else (site.audit, "append")
    real, failures = getattr(holder, name), [PlugskyError(ErrorKind.OVERLOADED, "not now") for _ in range(2)]

    def at_last(*given):
        if failures:
            assert site.engine.acknowledged == []
            raise failures.pop()
        return real(*given)

    monkeypatch.setattr(holder, name, at_last)
    assert (await site.ask()).usage.completion_tokens == 4
    assert failures == []
    assert [tokens(row) for row in site.rows()] == [(4, 4, "stop")]
    assert site.ledger.report().open_reservations == 0
    assert len(site.records(events.REQUEST)) == 1
    await until(lambda: site.engine.acknowledged == [site.rows()[0].job])


async def test_a_deadline_in_the_engine_is_a_timeout_that_is_billed(site):
    site.with_engine(reason="deadline")
    with pytest.raises(openai.InternalServerError) as late:
        await site.ask()
    assert (late.value.status_code, late.value.code) == (504, "timeout")
    assert tokens(site.rows()[0]) == (4, 4, "timeout")


async def test_an_engine_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(settlement, "GRACE_S", 0.05)
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), replace(LIMITS, request_timeout_s=0.3)) as site:
            site.with_engine(silent_after=1)
            _, failure = await read(await stream(site))
            assert failure.code == "timeout"
            assert tokens(site.rows()[0]) == (4, 1, "timeout")
            assert site.engine.submits[0].deadline_us <= 300_000


async def test_an_engine_that_never_accepts_is_a_timeout_that_costs_nothing(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), replace(LIMITS, request_timeout_s=0.3)) as site:
            site.with_engine(accepts=False)
            with pytest.raises(openai.InternalServerError) as late:
                await stream(site)
            assert late.value.status_code == 504
            assert tokens(site.rows()[0]) == (0, 0, "timeout")


async def test_a_client_that_stops_reading_counts_as_gone(site, monkeypatch):
    monkeypatch.setattr(exchange, "STALL_S", 0.2)
    site.with_engine(pieces=("x" * 4_000_000,) * 8, hold_after=7)
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.key}\r\n"
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: len(site.rows()) == 1)
        assert tokens(site.rows()[0]) == (4, 7, "cancelled")


async def test_draining_lets_streams_finish_and_refuses_new_requests(site):
    site.with_engine(hold_after=2)
    running = await stream(site)
    await until(lambda: site.gateway.flights.traffic().completion_tokens == 2)
    site.gateway.draining = True
    with pytest.raises(openai.InternalServerError) as refused:
        await site.ask()
    assert refused.value.status_code == 503
    assert "retry-after" in refused.value.response.headers
    assert (await site.get("/health"))[0] == 503
    site.gateway.draining = False
    site.server.drain()
    site.engine.release.set()
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in running]) == "The sea is wide."
    await site.serving
    assert [row.outcome for row in site.rows()] == ["stop"]


async def test_a_second_signal_ends_what_still_runs_and_settles_it(site):
    site.with_engine(hold_after=2)
    running = await stream(site)
    await until(lambda: site.gateway.flights.traffic().completion_tokens == 2)
    site.server.drain()
    site.server.drain()
    _, failure = await read(running)
    assert failure.code == "overloaded"
    await site.serving
    assert tokens(site.rows()[0]) == (4, 2, "overloaded")


async def test_a_request_whose_task_is_cancelled_is_settled_all_the_same(site):
    site.with_engine(hold_after=2)
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True}).encode()
    posting = asyncio.create_task(site.post(body))
    await until(lambda: site.gateway.flights.traffic().completion_tokens == 2)
    for task in list(site.server.server_state.tasks):
        task.cancel()
    _, _, data = await posting
    assert b"[DONE]" not in data
    await site.settled()
    assert tokens(site.rows()[0]) == (4, 2, "cancelled")


async def test_many_at_once_each_get_their_own_answer_and_one_connection_serves_them(site):
    answers = await asyncio.gather(*(site.ask("word " * (number + 1)) for number in range(12)))
    assert [answer.usage.prompt_tokens for answer in answers] == list(range(1, 13))
    assert len(site.rows()) == 12
    assert site.engine.connections == 1
    assert site.gateway.flights.traffic().requests == 12


async def test_what_an_earlier_gateway_left_open_is_closed_without_charge(site):
    principal = site.keys.authenticate([(b"authorization", f"Bearer {site.key}".encode())])
    site.ledger.reserve(job="left", principal=principal, requested_model=MODEL, model=MODEL, digest=DIGEST, tokens=20)
    assert recover(site.paths, site.ledger, site.audit).reservations == 1
    assert site.ledger.report().open_reservations == 0
    assert [record.outcome for record in site.records(events.REQUEST)] == ["engine_lost"]


async def test_the_engine_is_told_the_tenants_weight_and_the_deadline(site):
    with site.database.write() as session:
        session.get(Tenant, "acme").weight = 3
    await site.ask()
    submit = site.engine.submits[0]
    assert (submit.tenant, submit.weight) == ("acme", 3)
    assert 0 < submit.deadline_us <= 20_000_000
    assert submit.tokens == (0, 1, 2, 3)
    assert submit.max_tokens == 124
    assert isinstance(submit, frames.Submit)
