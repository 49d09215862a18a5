"""What Prometheus scrapes: read with its own parser, and nobody's business in it."""

import asyncio
import tempfile
from pathlib import Path

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.api_site import MODEL, ApiSite


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def scrape(site, key=None):
    """The samples by name and labels."""
    key = key or site.keys.create("ops", endpoints=("metrics",)).secret
    status, headers, body = await site.get("/metrics", headers=(f"Authorization: Bearer {key}",))
    assert status == 200, body
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(body.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples, name, **labels):
    return samples[name, tuple(sorted(labels.items()))]


async def test_requests_tokens_and_times_are_counted_as_the_ledger_has_them(site):
    for _ in range(3):
        await site.ask()
    await site.settled()
    samples = await scrape(site)
    served = {"model": MODEL, "endpoint": "chat.completions"}
    assert of(samples, "plugsky_requests_total", **served, outcome="stop") == 3
    assert of(samples, "plugsky_tokens_total", model=MODEL, kind="prompt") == sum(r.prompt_tokens for r in site.rows())
    assert of(samples, "plugsky_tokens_total", model=MODEL, kind="completion") == 12
    assert of(samples, "plugsky_first_token_seconds_count", **served) == 3
    assert of(samples, "plugsky_request_seconds_count", **served) == 3
    assert of(samples, "process_resident_memory_bytes") > 0


async def test_what_is_refused_is_counted_by_its_reason(site):
    with pytest.raises(openai.AuthenticationError):
        await site.sdk("psk_nobody").models.list()
    with pytest.raises(openai.NotFoundError):
        await site.ask(model="nothing")
    samples = await scrape(site)
    assert of(samples, "plugsky_refused_total", reason="unauthenticated") == 1
    assert of(samples, "plugsky_refused_total", reason="model_not_found") == 1


async def test_what_is_in_flight_is_told_by_its_state(site):
    site.with_engine(hold_after=1)
    asking = asyncio.create_task(site.ask())
    while not site.engine.submits:  # noqa: ASYNC110 - it watches what has no event of its own
        await asyncio.sleep(0.01)
    samples = await scrape(site)
    states = ("queued", "prefill", "decode", "ending")
    assert sum(of(samples, "plugsky_in_flight", state=state) for state in states) == 1
    site.engine.release.set()
    await asking


async def test_the_sites_numbers_are_for_keys_made_for_them_alone(site):
    for key, status in ((site.key, 403), ("psk_nobody", 401)):
        got, _, body = await site.get("/metrics", headers=(f"Authorization: Bearer {key}",))
        assert (got, b'"error"' in body) == (status, True)
    watcher = site.sdk(site.keys.create("ops", endpoints=("metrics",)).secret)
    with pytest.raises(openai.PermissionDeniedError):
        await watcher.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])


async def test_no_label_holds_what_a_client_wrote_or_who_it_is(site):
    secret_word = "xylophonist"
    await site.ask(secret_word, user=secret_word)
    with pytest.raises(openai.NotFoundError):
        await site.ask(model=secret_word)
    await site.settled()
    told = repr(await scrape(site))
    assert secret_word not in told
    assert "acme" not in told
    assert site.key[4:12] not in told
