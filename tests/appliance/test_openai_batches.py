"""Batches through the SDK: every line is answered once, whatever is killed, and one tenant's are no other's."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import openai
import pytest

from appliance.api_site import LIMITS, MODEL, ApiSite, until
from appliance.scripted_engine import ScriptedEngine
from appliance.scripted_vectors import ScriptedVectors
from appliance.test_server_gateway import CODE, new_key, paths  # noqa: F401 - a fixture
from plugsky.batches import lines
from plugsky.core import frames
from plugsky.core.principal import Rate
from plugsky.server.batch_runner import BatchRunner
from plugsky.server.openai.batches import answering

LIMITED = replace(LIMITS, max_batch_lines=200)


DEEP = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": ' + b"[" * 5000 + b"\n"


@pytest.fixture
async def site(tmp_path, where):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), LIMITED, where) as running:
            yield running


def line(number, **body):
    given = {"model": MODEL, "messages": [{"role": "user", "content": f"question {number}"}], **body}
    return {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions", "body": given}


async def begin(client, lines, endpoint="/v1/chat/completions", **options):
    content = b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines)
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


async def ended(client, batch, seconds=30):
    async with asyncio.timeout(seconds):
        while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
            await asyncio.sleep(0.05)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def answers(client, file_id):
    """The lines of a file of answers, by their custom ids."""
    text = (await client.files.content(file_id)).text
    found = [json.loads(each) for each in text.splitlines()]
    assert len({each["custom_id"] for each in found}) == len(found)
    return {each["custom_id"]: each for each in found}


async def test_every_line_is_answered_as_if_it_had_been_asked_alone(site):
    batch = await begin(site.client, [line(number) for number in range(20)], metadata={"run": "7"})
    assert batch.metadata == {"run": "7"}
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = await ended(site.client, batch)
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (20, 20, 0)
    found = await answers(site.client, batch.output_file_id)
    assert set(found) == {f"q{number}" for number in range(20)}
    for each in found.values():
        assert each["error"] is None
        answer = openai.types.chat.ChatCompletion.model_validate(each["response"]["body"])
        assert (each["response"]["status_code"], answer.choices[0].message.content) == (200, "The sea is wide.")
    rows = site.rows()
    assert {row.job for row in rows} == {each["response"]["request_id"] for each in found.values()}
    assert {row.service_class for row in rows} == {"batch"}
    assert {submit.service_class for submit in site.engine.submits} == {"batch"}
    (record,) = site.records("batch.end")
    assert (record.subject, record.outcome, record.fields["completed"]) == (batch.id, "completed", 20)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": "the sea"}),
        ("/v1/responses", {"model": MODEL, "input": "the sea"}),
    ],
)
async def test_a_batch_may_have_other_endpoints(site, endpoint, body):
    lines = [{"custom_id": "a", "method": "POST", "url": endpoint, "body": body}]
    batch = await ended(site.client, await begin(site.client, lines, endpoint))
    found = await answers(site.client, batch.output_file_id)
    assert "sea is wide" in json.dumps(found["a"]["response"]["body"])


async def test_a_batch_may_be_of_vectors(site):
    vectors = ScriptedVectors()
    await vectors.listen(site.paths.engine_socket("vector-1b"))
    body = {"model": "vector-1b", "input": ["one", "two words"]}
    lines = [{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}]
    batch = await ended(site.client, await begin(site.client, lines, "/v1/embeddings"))
    found = await answers(site.client, batch.output_file_id)
    assert [each["index"] for each in found["a"]["response"]["body"]["data"]] == [0, 1]
    await vectors.close()


async def test_what_is_not_done_within_a_day_has_expired_and_the_rest_stays(site, monkeypatch):
    site.with_engine(hold_after=1)
    batch = await begin(site.client, [line(number) for number in range(20)])
    await until(lambda: len(site.engine.submits) == 8)
    later = site.clock.now() + timedelta(hours=25)
    monkeypatch.setattr(site.clock, "now", lambda: later)
    site.engine.release.set()
    batch = await ended(site.client, batch)
    assert (batch.status, batch.request_counts.completed, batch.expired_at is not None) == ("expired", 8, True)
    assert len(await answers(site.client, batch.output_file_id)) == 8


async def test_a_batch_is_run_by_one_process_of_those_that_serve_the_site(site):
    site.with_engine(hold_after=1)
    second = BatchRunner(site.gateway, site.gateway.storage, answering(site.gateway))
    running = asyncio.create_task(second.run())
    batch = await begin(site.client, [line(number) for number in range(30)])
    await until(lambda: len(site.engine.submits) >= 8)
    await asyncio.sleep(1.5)
    assert len(site.engine.submits) == 8
    site.engine.release.set()
    batch = await ended(site.client, batch)
    assert (batch.request_counts.completed, len(site.engine.submits)) == (30, 30)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_gateway_that_drains_begins_no_line_and_leaves_the_batch_to_the_next(site):
    site.with_engine(hold_after=1)
    batch = await begin(site.client, [line(number) for number in range(30)])
    await until(lambda: len(site.engine.submits) == 8)
    site.gateway.draining = True
    site.engine.release.set()
    await site.batches
    assert len(site.engine.submits) == 8
    assert site.gateway.storage.batches.get("acme", batch.id).status == "in_progress"
    site.gateway.draining = False
    site.batches = asyncio.create_task(BatchRunner(site.gateway, site.gateway.storage, answering(site.gateway)).run())
    assert (await ended(site.client, batch)).request_counts.completed == 30
    assert len(site.engine.submits) == 30


async def test_a_line_that_cannot_be_served_is_an_error_of_its_own(site):
    lines = [line(1), line(2, model="nobody"), line(3, temperature=99), line(4, max_tokens=100_000), line(5)]
    batch = await ended(site.client, await begin(site.client, lines))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 2, 3)
    failed = await answers(site.client, batch.error_file_id)
    told = {name: each["response"] for name, each in failed.items()}
    assert [told[name]["status_code"] for name in ("q2", "q3", "q4")] == [404, 400, 400]
    assert [told[name]["body"]["error"]["param"] for name in ("q2", "q3")] == ["model", "temperature"]


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([], "empty_file", None),
        ([b"\n \n"], "empty_file", None),
        ([line(1), b"nothing\n"], "invalid_json_line", 2),
        ([b'{"custom_id": "a"}\n'], "invalid_json_line", 1),
        ([b"\xff\xfe\n"], "invalid_json_line", 1),
        ([DEEP], "invalid_json_line", 1),
        ([line(1) | {"custom_id": ""}], "invalid_custom_id", 1),
        ([line(1), line(1)], "duplicate_custom_id", 2),
        ([line(1) | {"method": "GET"}], "invalid_method", 1),
        ([line(1) | {"url": "/v1/embeddings"}], "mismatched_url", 1),
        ([line(1, stream=True)], "invalid_body", 1),
        ([line(number) for number in range(201)], "too_many_requests", None),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_batch_fails_it_with_the_line_and_runs_nothing(site, lines, code, number):
    batch = await ended(site.client, await begin(site.client, lines))
    assert batch.status == "failed"
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, number)
    assert (site.engine.submits, batch.output_file_id, batch.failed_at is not None) == ([], None, True)


async def test_a_batch_that_is_cancelled_keeps_what_was_answered(site):
    site.with_engine(hold_after=1)
    batch = await begin(site.client, [line(number) for number in range(30)])
    await until(lambda: len(site.engine.submits) == 8)
    assert (await site.client.batches.cancel(batch.id)).status == "cancelling"
    site.engine.release.set()
    batch = await ended(site.client, batch)
    assert (batch.status, batch.cancelled_at is not None) == ("cancelled", True)
    found = await answers(site.client, batch.output_file_id)
    assert 8 <= len(found) < 30
    assert batch.request_counts.completed == len(found) == len(site.rows())
    with pytest.raises(openai.ConflictError):
        await site.client.batches.cancel(batch.id)


async def test_another_tenant_finds_no_batch_and_cannot_run_a_file_that_is_not_its_own(site):
    site.with_engine(hold_after=1)
    batch = await begin(site.client, [line(1)])
    other = site.sdk(site.keys.create("umbrella").secret)
    assert (await other.batches.list()).data == []
    for ask in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="no batch of that id"):
            await ask(batch.id)
    with pytest.raises(openai.NotFoundError, match="no file of that id"):
        await other.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    with pytest.raises(openai.ConflictError, match=batch.id):
        await site.client.files.delete(batch.input_file_id)
    site.engine.release.set()
    assert (await ended(site.client, batch)).status == "completed"
    assert [each.id for each in (await site.client.batches.list()).data] == [batch.id]


async def test_a_busy_engine_is_asked_again_until_it_has_room(site, monkeypatch):
    monkeypatch.setattr("plugsky.server.batch_runner.LOOK_S", 0.05)
    site.with_engine(refuse_submit=frames.Failed(0, "overloaded", "the queue is full"))
    batch = await begin(site.client, [line(number) for number in range(3)])
    await until(lambda: len(site.engine.submits) >= 6)
    site.with_engine(refuse_submit=None)
    batch = await ended(site.client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)
    assert {row.outcome for row in site.rows() if row.completion_tokens} == {"stop"}


async def test_a_key_that_has_ended_ends_the_lines_that_are_left(site):
    made = site.keys.create("acme")
    client = site.sdk(made.secret)
    site.with_engine(hold_after=1)
    batch = await begin(client, [line(number) for number in range(30)])
    await until(lambda: len(site.engine.submits) == 8)
    site.keys.revoke(made.record.id)
    await asyncio.sleep(0.6)
    site.engine.release.set()
    batch = await ended(site.client, batch)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 8, 22)
    failed = await answers(site.client, batch.error_file_id)
    assert {each["response"]["status_code"] for each in failed.values()} == {401}


async def test_a_batch_takes_no_ones_place_in_the_limits_of_a_minute(site):
    client = site.sdk(site.keys.create("acme", rate=Rate(requests_per_minute=5)).secret)
    batch = await ended(site.client, await begin(client, [line(number) for number in range(20)]))
    assert batch.request_counts.completed == 20
    answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "The sea is wide."


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"endpoint": "/v1/audio"}, 400),
        ({"completion_window": "1h"}, 400),
        ({"input_file_id": "file-none"}, 404),
        ({"metadata": {str(number): "" for number in range(17)}}, 400),
        ({"metadata": {"a": "x" * 513}}, 400),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 400),
        ({"color": "red"}, 400),
    ],
)
async def test_a_batch_that_cannot_be_is_refused(site, change, status):
    file = await site.client.files.create(file=("in", b"{}"), purpose="batch")
    given = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **change}
    assert (await site.post(json.dumps(given).encode(), "/v1/batches"))[0] == status


async def test_a_tenant_has_so_many_batches_under_way(site, monkeypatch):
    monkeypatch.setattr("plugsky.batches.batches.MAX_UNDER_WAY", 2)
    site.with_engine(hold_after=1)
    first = [await begin(site.client, [line(1)]) for _ in range(2)]
    with pytest.raises(openai.RateLimitError, match="2 batches under way"):
        await begin(site.client, [line(1)])
    site.engine.release.set()
    for batch in first:
        await ended(site.client, batch)
    await begin(site.client, [line(1)])


@pytest.mark.integration
async def test_a_gateway_that_is_killed_goes_on_where_it_was_and_answers_every_line_once(paths):  # noqa: F811
    key = new_key(paths)
    engine = ScriptedEngine()
    await engine.listen(paths.engine_socket(MODEL))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()

        async def start():
            arguments = ("-W", "error", "-c", CODE, str(paths.root), str(paths.run), str(fd))
            return await asyncio.create_subprocess_exec(sys.executable, *arguments, pass_fds=(fd,))

        process = await start()
        try:
            async with openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=key, timeout=30, max_retries=5
            ) as client:
                batch = await begin(client, [line(number) for number in range(300)])
                for kills in (30, 90, 150):
                    async with asyncio.timeout(30):
                        while len(engine.submits) < kills:  # noqa: ASYNC110 - it watches what has no event
                            await asyncio.sleep(0.002)
                    process.kill()
                    await process.wait()
                    process = await start()
                batch = await ended(client, batch, 60)
                found = await answers(client, batch.output_file_id)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        finally:
            if process.returncode is None:
                process.kill()
            await engine.close()
    assert (batch.status, batch.request_counts.completed, len(found)) == ("completed", 300, 300)
    with closing(sqlite3.connect(paths.database)) as ledger:
        billed = {job for (job,) in ledger.execute("select job from ledgerentry where outcome = 'stop'")}
    assert {each["response"]["request_id"] for each in found.values()} <= billed
    assert len(billed) <= 300 + 3 * 8


async def test_a_batch_whose_answers_were_damaged_ends_as_failed_and_says_so(site):
    content = json.dumps(line(1)).encode() + b"\n"
    file = await site.client.files.create(file=("in.jsonl", content), purpose="batch")
    principal = site.keys.authenticate([(b"x-api-key", site.key.encode())])
    made = site.gateway.storage.batches.create(principal, file.id, "/v1/chat/completions", {})
    site.gateway.storage.files.path(made.output).write_bytes(b"\x00\xff no answer\n")
    batch = await ended(site.client, await site.client.batches.retrieve(made.id))
    assert batch.status == "failed"
    assert [problem.code for problem in batch.errors.data] == ["answers_damaged"]
    assert site.engine.submits == []


async def test_what_nobody_foresaw_ends_one_try_of_one_batch_and_no_other_batch(site, monkeypatch, caplog):
    real = lines.check

    def broken(path, endpoint, most):
        if path.read_bytes().startswith(b'{"custom_id": "q1"'):
            raise ZeroDivisionError
        return real(path, endpoint, most)

    monkeypatch.setattr(lines, "check", broken)
    guilty = await begin(site.client, [line(1)])
    other = await ended(site.client, await begin(site.client, [line(2)]))
    assert other.status == "completed"
    assert (await site.client.batches.retrieve(guilty.id)).status == "validating"
    assert [record.getMessage() for record in caplog.records if guilty.id in record.getMessage()] != []
    await site.client.batches.cancel(guilty.id)
