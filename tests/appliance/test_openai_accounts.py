"""Limits, scopes, aliases and replaced keys as the unmodified ``openai`` package meets them."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from appliance.api_site import MODEL, ApiSite
from plugsky.access.keys import FRESH_US
from plugsky.core.principal import Rate

STALE_S = FRESH_US / 1e6 + 0.05


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def holder(site, tenant="acme", **options):
    """The SDK with a new key."""
    issued = site.keys.create(tenant, **options)
    return issued.record.id, site.sdk(issued.secret)


async def ask(client, model=MODEL, **options):
    messages = [{"role": "user", "content": "how wide is it"}]
    return await client.chat.completions.create(model=model, messages=messages, **options)


async def test_a_key_is_held_to_its_requests_a_minute_and_told_when_to_come_back(site):
    _, client = holder(site, rate=Rate(requests_per_minute=2))
    first = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}]
    )
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    await ask(client)
    with pytest.raises(openai.RateLimitError) as refused:
        await ask(client)
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["x-should-retry"] == "true"
    assert 20 <= int(refused.value.response.headers["retry-after"]) <= 30
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    await site.settled()
    assert [record.outcome for record in site.records("request.refused")] == ["rate_limited"]
    assert len(site.rows()) == 2


async def test_an_sdk_that_retries_gets_its_answer_when_there_is_room_again(site):
    site.with_engine(hold_after=1)
    _, client = holder(site, rate=Rate(concurrency=1))
    first = asyncio.create_task(ask(client))
    while not site.engine.submits:  # noqa: ASYNC110 - it watches what has no event of its own
        await asyncio.sleep(0.01)
    with pytest.raises(openai.RateLimitError):
        await ask(client)
    second = asyncio.create_task(ask(client.with_options(max_retries=5)))
    await asyncio.sleep(0.2)
    site.engine.release.set()
    assert (await first).choices
    assert (await second).choices


async def test_tokens_a_minute_count_what_was_used_and_not_what_was_asked_for(site):
    _, client = holder(site, rate=Rate(tokens_per_minute=30))
    for _ in range(3):
        assert (await ask(client, max_tokens=8)).usage.total_tokens == 8
        await site.settled()
    with pytest.raises(openai.RateLimitError) as refused:
        await ask(client, max_tokens=8)
    assert "may use 30 tokens a minute; this request needs 12" in refused.value.message


async def test_all_keys_of_a_tenant_share_its_limit(site):
    site.tenants.set("lab", lambda terms: replace(terms, rate=Rate(requests_per_minute=2)))
    _, one = holder(site, "lab")
    _, two = holder(site, "lab")
    await ask(one)
    await ask(two)
    with pytest.raises(openai.RateLimitError, match="tenant"):
        await ask(one)
    await ask(site.client)


async def test_a_key_may_call_the_endpoints_of_its_scope_and_no_other(site):
    _, client = holder(site, endpoints=("chat", "tokens"))
    assert (await ask(client)).choices
    with pytest.raises(openai.PermissionDeniedError, match="may not call the endpoint completions"):
        await client.completions.create(model=MODEL, prompt="x")
    with pytest.raises(openai.PermissionDeniedError):
        await client.responses.create(model=MODEL, input="x")
    assert (await client.models.list()).data


async def test_old_code_keeps_the_name_of_its_model_and_the_header_tells_the_truth(site):
    site.aliases.set("gpt-4o", MODEL)
    site.aliases.set("org/model:tag", MODEL)
    await asyncio.sleep(STALE_S)
    raw = await site.client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
    )
    assert raw.headers["x-plugsky-model"].startswith(f"{MODEL}@sha256:")
    assert (await ask(site.client, "org/model:tag")).choices
    await site.settled()
    assert {(row.requested_model, row.model) for row in site.rows()} == {("gpt-4o", MODEL), ("org/model:tag", MODEL)}
    listed = {model.id: model for model in (await site.client.models.list()).data}
    assert listed["gpt-4o"].alias_of == MODEL
    assert (await site.client.models.retrieve("gpt-4o")).id == MODEL


async def test_an_alias_brings_parameters_that_the_request_does_not_give(site):
    site.aliases.set("calm", MODEL, defaults={"temperature": 0.25, "max_tokens": 2, "top_k": 7})
    await asyncio.sleep(STALE_S)
    answer = await ask(site.client, "calm")
    assert answer.choices[0].finish_reason == "length"
    params = site.engine.submits[0].params
    assert (params.temperature, params.top_k, site.engine.submits[0].max_tokens) == (0.25, 7, 2)
    await ask(site.client, "calm", temperature=1.0, max_tokens=4)
    given = site.engine.submits[1]
    assert (given.params.temperature, given.params.top_k, given.max_tokens) == (1.0, 7, 4)
    await ask(site.client)
    assert site.engine.submits[2].params.temperature == 1.0


async def test_a_tenant_s_own_alias_goes_before_the_site_s_and_nobody_else_has_it(site):
    site.aliases.set("small", "other-2b")
    site.aliases.set("small", MODEL, "acme")
    site.aliases.set("secret-name", MODEL, "lab")
    await asyncio.sleep(STALE_S)
    assert (await ask(site.client, "small")).choices
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        await ask(site.client, "secret-name")
    assert "secret-name" not in {model.id for model in (await site.client.models.list()).data}


async def test_an_alias_opens_no_model_that_the_key_may_not_use(site):
    site.aliases.set("door", MODEL)
    _, client = holder(site, models=("other-2b",))
    with pytest.raises(openai.PermissionDeniedError):
        await ask(client, "door")
    assert [model.id for model in (await client.models.list()).data] == ["other-2b"]


async def test_an_alias_of_a_model_that_is_gone_says_so(site):
    site.aliases.set("old", "gone-3b")
    with pytest.raises(openai.NotFoundError, match="an alias of 'gone-3b', which is not installed"):
        await ask(site.client, "old")


async def test_a_removed_alias_is_unknown_within_a_second(site):
    site.aliases.set("brief", MODEL)
    assert (await ask(site.client, "brief")).choices
    site.aliases.remove("brief")
    await asyncio.sleep(STALE_S)
    with pytest.raises(openai.NotFoundError):
        await ask(site.client, "brief")


async def test_a_replaced_key_and_its_successor_both_work_until_the_overlap_is_over(site):
    key_id, old = holder(site, models=(MODEL,), rate=Rate(concurrency=3))
    await ask(old)
    issued = site.keys.rotate(key_id, overlap_hours=0)
    new = site.sdk(issued.secret)
    assert (await ask(new)).choices
    with pytest.raises(openai.AuthenticationError):
        await ask(old)
    assert (issued.record.models, issued.record.rate) == ((MODEL,), Rate(concurrency=3))
