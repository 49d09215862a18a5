"""Connections: a client that never finishes its head is let go, and what is no HTTP is told so in the site's words."""

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import ApiSite, parsed
from plugsky.server import connections


@pytest.fixture
async def site(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def until_closed(site, *pieces, pause=0.2):
    """Send pieces with pauses, then nothing; how many seconds until the gateway let go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(10):
            for piece in pieces:
                if reader.at_eof():
                    break
                writer.write(piece)
                await asyncio.sleep(pause)
            with contextlib.suppress(ConnectionError):
                await reader.read()
    finally:
        writer.close()
    return loop.time() - began


async def test_a_client_that_says_nothing_is_let_go(site):
    assert 0.4 < await until_closed(site) < 5


async def test_a_client_that_trickles_its_head_is_let_go_however_long_it_goes_on(site):
    head = [b"GET /v1/models HTTP/1.1\r\n"] + [b"X-%d: 1\r\n" % number for number in range(40)]
    assert 0.4 < await until_closed(site, *head, pause=0.1) < 4


async def test_a_second_request_has_the_same_time_for_its_head(site):
    first = b"GET /health HTTP/1.1\r\nHost: s\r\n\r\n"
    assert 0.4 < await until_closed(site, first, b"GET /hea", pause=0.3) < 5


async def test_a_client_that_waits_for_a_slow_answer_is_not_let_go(site):
    site.with_engine(hold_after=1)
    asking = asyncio.create_task(site.ask())
    await asyncio.sleep(1.5)
    site.engine.release.set()
    assert (await asking).choices[0].message.content == "The sea is wide."


async def test_a_connection_that_is_kept_for_the_next_request_stays(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for _ in range(2):
        writer.write(b"GET /health HTTP/1.1\r\nHost: s\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b'ok"}')
        await asyncio.sleep(1)
    writer.close()


NO_HTTP = {
    "the beginning of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "words": b"nothing\r\n\r\n",
    "a path with a control character": b"GET /\x00 HTTP/1.1\r\n\r\n",
    "a length that is none": b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_no_http_is_a_400_with_the_error_body(site, sent):
    status, headers, body = parsed(await site.raw(sent + b"\r\n\r\n"))
    assert (status, headers["content-type"]) == (400, "application/json")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
