"""Every door of the gateway is shut to who has no key for it, however the key is brought."""

import asyncio
import re
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.api_site import ApiSite
from plugsky.server.app import routes

OPEN = {"/health", "/v1/health/live", "/v1/health/ready", "/openapi.json", "/docs"}
"""What anybody may read: that the gateway lives, and what it serves."""
FORMS = {
    "bearer": "Authorization: Bearer {}",
    "deepl": "Authorization: DeepL-Auth-Key {}",
    "x-api-key": "x-api-key: {}",
    "api-key": "api-key: {}",
}
UNSCOPED = re.compile(r"(/[a-z1/-]*)?(/models|/models_available|/tags|/ps|/show|/version)(/|$)")
"""What tells a key which models it may use: no endpoint of its own, so every key may."""


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def doors(site):
    """Method and path of everything that is served, with something in the place of each parameter."""
    return [(method, re.sub(r"{\w+(:path)?}", "x", path)) for method, path, _ in routes(site.gateway)]


async def knock(site, method, path, *headers):
    length = ("Content-Length: 2", "Content-Type: application/json") if method == "POST" else ()
    lines = [f"{method} {path} HTTP/1.1", "Host: site", "Connection: close", *length, *headers]
    reply = await site.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"{}" if length else b""))
    status = int(reply.split()[1])
    if status == 403 and b"API key is missing, unknown, expired or revoked" in reply:
        assert path.startswith(("/v2/", "/v3/", "/deepl/"))  # DeepL's word for who is nobody
        return 401
    assert status == 200 or b'"detail"' not in reply
    return status


async def told(site, *headers):
    """How each door that is not open to everybody answers."""
    closed = [door for door in doors(site) if door[1] not in OPEN]
    assert len(closed) > 90
    found = {}
    for start in range(0, len(closed), 20):
        some = closed[start : start + 20]
        found |= dict(zip(some, await asyncio.gather(*(knock(site, *door, *headers) for door in some)), strict=True))
    return found


async def test_what_is_open_needs_no_key_and_nothing_else_is(site):
    for method, path in doors(site):
        if path in OPEN:
            assert await knock(site, method, path) == 200
    assert set((await told(site)).values()) == {401}


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_that_is_not_of_this_site_opens_no_door(site, form):
    for secret in ("psk_aaaaaaaa_" + "b" * 43, "sk-proj-1234", "x"):
        assert set((await told(site, FORMS[form].format(secret))).values()) == {401}


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_that_has_ended_opens_no_door(site, form):
    revoked, expired = site.keys.create("acme"), site.keys.create("acme", days=1)
    site.keys.revoke(revoked.record.id)
    later = site.clock.now() + timedelta(days=2)
    site.clock.now = lambda: later
    for issued in (revoked, expired):
        assert set((await told(site, FORMS[form].format(issued.secret))).values()) == {401}


async def test_two_keys_at_once_open_no_door(site):
    both = (f"Authorization: Bearer {site.key}", f"x-api-key: {site.keys.create('acme').secret}")
    assert set((await told(site, *both)).values()) == {401}


async def test_a_key_for_one_endpoint_opens_no_other(site):
    headers = f"Authorization: Bearer {site.keys.create('acme', endpoints=('nothing',)).secret}"
    found = await told(site, headers)
    beyond = {door: status for door, status in found.items() if status != 403 and not UNSCOPED.search(door[1])}
    assert beyond == {}


async def test_a_key_for_everything_does_not_read_the_whole_sites_numbers(site):
    assert await knock(site, "GET", "/metrics", f"Authorization: Bearer {site.key}") == 403


async def test_no_door_is_opened_by_another_method(site):
    served = {}
    for method, path in doors(site):
        served.setdefault(path, set()).add(method)
    for path, methods in served.items():
        if "x" in path.split("/"):
            continue
        for method in {"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - methods:
            assert await knock(site, method, path, f"Authorization: Bearer {site.key}") in (404, 405), (method, path)
