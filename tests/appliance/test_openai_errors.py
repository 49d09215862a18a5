"""The error contract, through the real ``openai`` package and over raw bytes."""

import asyncio
import json
import tempfile
from pathlib import Path

import openai
import pytest
from sqlalchemy import text

from appliance.api_site import MODEL, ApiSite
from appliance.test_openai_fields import BAD_BODIES, REFUSED_FIELDS, chat, refused_body
from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server import exchange
from plugsky.server.app import build_app
from plugsky.state import Tenant

USER = {"role": "user", "content": "hi"}


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def error_in(data):
    """The error of a body; its outer shape is part of the contract."""
    body = json.loads(data)
    assert set(body) == {"error"}
    assert {"message", "type", "param", "code"} <= set(body["error"])
    assert "Traceback" not in body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize("key", ["psk_wrong", "x", "psk_aaaaaaaa_" + "b" * 43, "sk-something-else"])
async def test_a_wrong_key_is_an_authentication_error_always_the_same(site, key):
    with pytest.raises(openai.AuthenticationError) as refused:
        await site.sdk(key).chat.completions.create(model=MODEL, messages=[USER])
    assert refused.value.status_code == 401
    assert refused.value.code == "invalid_api_key"
    assert refused.value.type == "authentication_error"
    assert refused.value.response.headers["www-authenticate"] == "Bearer"
    _, _, missing = await site.get("/v1/models")
    assert error_in(missing) == refused.value.body


async def test_an_unknown_model_is_not_found_and_names_the_parameter(site):
    with pytest.raises(openai.NotFoundError) as refused:
        await site.ask(model="gpt-17")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "gpt-17" in refused.value.message
    with pytest.raises(openai.NotFoundError):
        await site.client.models.retrieve("gpt-17")


async def test_a_prompt_beyond_the_context_says_both_numbers_in_the_words_clients_look_for(site):
    with pytest.raises(openai.BadRequestError) as refused:
        await site.ask("word " * 200)
    error = refused.value
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert "This model's maximum context length is 128 tokens" in error.message
    assert "exceeds the available context size (128 tokens)" in error.message
    assert (error.body["n_prompt_tokens"], error.body["n_ctx"]) == (200, 128)
    with pytest.raises(openai.BadRequestError) as refused:
        await site.ask("hi", max_tokens=128)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "max_tokens")
    assert "your request (129 tokens)" in refused.value.message


async def test_whatever_cannot_be_read_or_honoured_is_a_400_and_never_reaches_the_engine(site):
    for case in (*REFUSED_FIELDS, *BAD_BODIES):
        body = refused_body(case) if case in REFUSED_FIELDS else BAD_BODIES[case]
        status, headers, data = await site.post(body)
        error = error_in(data)
        assert (case, status, error["type"]) == (case, 400, "invalid_request_error")
        assert headers["x-should-retry"] == "false"
    assert site.engine.prepares == []
    assert site.rows() == []
    outcomes = [record.outcome for record in site.records("request.refused")]
    assert len(outcomes) == len(REFUSED_FIELDS) + len(BAD_BODIES)
    assert set(outcomes) == {"bad_request", "unsupported_field"}


PROMPTS_ASTRAY = {
    "a sentence as the model": chat(model="tell me about Anna's illness"),
    "a long word as the model": chat(model="x" * 200),
    "a sentence as a field": chat(**{"Anna is ill": 1}),
    "a long field": chat(**{"secret" * 30: 1}),
}


@pytest.mark.parametrize("body", PROMPTS_ASTRAY.values(), ids=PROMPTS_ASTRAY.keys())
async def test_what_does_not_look_like_a_name_stays_out_of_the_trail(site, body):
    status, _, _ = await site.post(body)
    assert status in (400, 404)
    (record,) = site.records("request.refused")
    shown = json.dumps(record.fields)
    assert not [word for word in ("Anna", "illness", "secretsecret", "xxxx") if word in shown]
    assert "(not a model name)" in shown or "(not a field name)" in shown


async def test_what_looks_like_a_name_is_in_the_trail(site):
    await site.post(chat(model="mistralai/Mistral-7B:latest"))
    await site.post(chat(modell="x"))
    unknown, misspelt = site.records("request.refused")
    assert unknown.fields["requested_model"] == "mistralai/Mistral-7B:latest"
    assert misspelt.fields["param"] == "modell"


async def test_a_damaged_database_tells_clients_no_path_and_no_command(site):
    with site.database.write() as session:
        session.execute(text("ALTER TABLE ledgerentry RENAME TO elsewhere"))
    replies = [await site.post(chat())]
    with site.database.write() as session:
        session.execute(text("ALTER TABLE apikey RENAME TO nowhere"))
    unseen = site.sdk("psk_aaaaaaaa_" + "b" * 43)
    with pytest.raises(openai.InternalServerError) as failed:
        await unseen.models.list()
    replies.append((failed.value.status_code, {}, failed.value.response.content))
    for status, _, data in replies:
        assert (status, error_in(data)["message"]) == (500, "The site cannot keep its books at the moment.")
    assert site.gateway.flights.traffic().failed == 2


async def test_a_trail_on_a_full_disk_tells_clients_no_path_and_no_command(site, monkeypatch):
    monkeypatch.setattr(site.audit, "_problem", "No space left on device")
    for status, _, data in (await site.post(chat()), await site.get("/health")):
        error = error_in(data)
        assert (status, error["code"]) == (503, "overloaded")
        assert error["message"] == "The site cannot keep its books at the moment."


async def test_a_body_over_the_limit_is_413_whether_announced_or_not(site):
    big = chat(messages=[{"role": "user", "content": "x" * 200_000}])
    status, _, data = await site.post(big)
    assert (status, error_in(data)["code"]) == (413, "request_too_large")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.key}\r\nConnection: close\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)
    assert (await site.raw(head.encode() + chunked)).startswith(b"HTTP/1.1 413")


async def test_a_compressed_body_is_refused(site):
    status, _, data = await site.post(chat(), headers=["Content-Encoding: gzip"])
    assert (status, error_in(data)["type"]) == (400, "invalid_request_error")


ROUTES = {
    "an unknown path": ("GET", "/v1/engines", 404, "not_found"),
    "the root": ("GET", "/", 404, "not_found"),
    "a trailing slash": ("POST", "/v1/chat/completions/", 404, "not_found"),
    "a path that climbs": ("GET", "/v1/models/../../etc/passwd", 401, "invalid_api_key"),
    "GET where POST is": ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    "DELETE on a model": ("DELETE", f"/v1/models/{MODEL}", 405, "method_not_allowed"),
    "OPTIONS": ("OPTIONS", "/v1/models", 405, "method_not_allowed"),
}


@pytest.mark.parametrize("case", ROUTES)
async def test_every_route_answers_in_the_contracts_shape(site, case):
    method, path, status, code = ROUTES[case]
    answered, headers, data = await site.get(path, method)
    assert (answered, error_in(data)["code"]) == (status, code)
    assert headers["x-request-id"]
    assert "access-control-allow-origin" not in headers
    assert (status == 405) == ("allow" in headers)


async def test_every_endpoint_but_what_tells_nothing_of_the_site_wants_a_key(site):
    open_to_all = set()
    for route in build_app(site.gateway).routes:
        for method in route.methods:
            path = route.path.replace("{model:path}", MODEL).replace("{deployment}", MODEL)
            status, _, _ = await site.get(path, method)
            assert status in {200, 401, 403}  # DeepL says 403 where others say 401
            if status == 200:
                open_to_all.add(path)
    assert open_to_all == {"/health", "/v1/health/live", "/v1/health/ready", "/docs", "/openapi.json"}


ENGINE_REFUSALS = {
    "overloaded": (openai.InternalServerError, 503, "true"),
    "bad_request": (openai.BadRequestError, 400, "false"),
    "not_supported": (openai.InternalServerError, 501, "false"),
    "never_heard_of": (openai.InternalServerError, 500, "false"),
}


@pytest.mark.parametrize("stage", ["refuse_prepare", "refuse_submit"])
@pytest.mark.parametrize("kind", ENGINE_REFUSALS)
async def test_what_the_engine_refuses_has_a_status_even_for_a_stream(site, kind, stage):
    raised, status, retry = ENGINE_REFUSALS[kind]
    site.with_engine(**{stage: frames.Failed(0, kind, "the queue of 4 is full")})
    with pytest.raises(raised) as refused:
        await site.ask(stream=True)
    assert refused.value.status_code == status
    assert refused.value.response.headers["x-should-retry"] == retry
    assert ("retry-after" in refused.value.response.headers) == (retry == "true")
    assert "the queue of 4 is full" in refused.value.message
    assert [row.completion_tokens + row.prompt_tokens for row in site.rows()] == [0] * (stage == "refuse_submit")


async def test_a_model_that_does_not_load_in_time_is_503_with_a_time_to_retry(site):
    site.with_engine(loading=True)
    with pytest.raises(openai.InternalServerError) as refused:
        await site.ask()
    assert (refused.value.status_code, refused.value.code) == (503, "model_loading")
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_a_model_that_cannot_chat_is_501(site):
    with pytest.raises(openai.InternalServerError) as refused:
        await site.ask(model="vector-1b")
    assert (refused.value.status_code, refused.value.type) == (501, "not_supported_error")


async def test_a_body_that_dribbles_in_is_not_waited_for(site, monkeypatch):
    monkeypatch.setattr(exchange, "BODY_S", 0.1)
    monkeypatch.setattr(exchange, "HEAR_OUT_S", 0.1)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.key}\r\nConnection: close\r\n"
    reply = await site.raw(head.encode() + b'Content-Length: 999\r\n\r\n{"model":')
    assert reply.startswith(b"HTTP/1.1 504")


async def test_an_engine_with_another_file_than_the_catalogues_is_not_used(site):
    site.with_engine(digest="00" * 32)
    with pytest.raises(openai.InternalServerError) as refused:
        await site.ask()
    assert refused.value.code == "model_loading"
    assert site.engine.prepares == []


async def test_the_host_is_not_described_to_clients(site):
    with pytest.raises(openai.InternalServerError) as refused:
        await site.ask(model="other-2b")
    assert refused.value.code == "model_loading"
    assert str(site.paths.run) not in str(refused.value.body)


async def test_an_unforeseen_failure_is_a_500_without_its_reason(site, monkeypatch, caplog):
    def broken():
        raise RuntimeError("secret prompt")

    monkeypatch.setattr(site.books, "check", broken)
    with pytest.raises(openai.InternalServerError) as failed:
        await site.ask()
    assert (failed.value.status_code, failed.value.code) == (500, "internal_error")
    assert "secret prompt" not in str(failed.value.body) + caplog.text
    assert failed.value.response.headers["x-request-id"] in caplog.text


async def test_an_audit_trail_that_cannot_be_written_stops_new_requests(site, monkeypatch):
    def refuse():
        raise PlugskyError(ErrorKind.OVERLOADED, "the audit trail cannot be written")

    monkeypatch.setattr(site.audit, "check", refuse)
    with pytest.raises(openai.InternalServerError) as refused:
        await site.ask()
    assert refused.value.status_code == 503
    assert (await site.get("/v1/health/ready"))[0] == 503
    assert (await site.get("/v1/health/live"))[0] == 200


async def test_probes_need_no_key(site):
    for path in ("/health", "/v1/health/live", "/v1/health/ready"):
        status, _, data = await site.get(path)
        assert (status, json.loads(data)) == (200, {"status": "ok"})


async def test_a_budget_that_is_spent_is_not_worth_retrying(site):
    with site.database.write() as session:
        session.get(Tenant, "acme").monthly_tokens = 10
    with pytest.raises(openai.RateLimitError) as refused:
        await site.ask(max_tokens=100)
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert site.engine.submits == []
    answer = await site.ask(max_tokens=4)
    assert answer.usage.total_tokens == 8


async def test_a_client_that_hangs_up_in_its_body_leaves_nothing(site):
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.key}\r\nContent-Length: 999\r\n"
    )
    await site.raw(head.encode() + b'\r\n{"model":', read=False)
    await asyncio.sleep(0.05)
    await site.settled()
    assert site.rows() == []
