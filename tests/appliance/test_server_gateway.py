"""One gateway process as the supervisor runs it: a listener by descriptor, a control socket, an end by signal."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import openai
import pytest

from appliance.scripted_engine import DIGEST, ScriptedEngine
from plugsky.access.keys import Keys
from plugsky.admin.gateway_client import GatewayClient
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.server.gateway import check_listener
from plugsky.state import open_database

MODEL = "poet-1b"
CODE = """
import socket, sys
from pathlib import Path
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.server import gateway
root, run, fd = sys.argv[1:]
gateway.run(SitePaths.at(Path(root), Path(run)), socket.socket(fileno=int(fd)), EffectivePolicy())
"""


@pytest.fixture
def paths(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        found = SitePaths.at(tmp_path / "site", Path(run))
        model = found.generations / "1" / "models" / MODEL
        model.mkdir(parents=True)
        found.current.symlink_to("generations/1")
        found.state.mkdir()
        (model / "poet.gguf").write_bytes(b"GGUF")
        entry = {
            "schema": "plugsky.model/1", "id": MODEL, "title": "Poet", "file": "poet.gguf", "sha256": DIGEST,
            "size": 4, "mode": "generate", "context": 2048, "licence": "Apache-2.0", "languages": ["en"],
            "homepage": "", "origin": "", "architecture": "llama", "quantisation": "Q4_1", "parameters": 1,
        }  # fmt: skip
        (model / "model.json").write_text(json.dumps(entry))
        yield found


def new_key(paths):
    database = open_database(paths.database)
    try:
        return Keys.open(database, paths, SystemClock()).create("acme").secret
    finally:
        database.close()


@pytest.mark.integration
async def test_a_gateway_process_serves_its_descriptor_and_ends_in_good_order(paths):
    key = new_key(paths)
    engine = ScriptedEngine()
    engine.script.hold_after = 2
    await engine.listen(paths.engine_socket(MODEL))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        arguments = ("-W", "error", "-c", CODE, str(paths.root), str(paths.run), str(fd))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, pass_fds=(fd,))
    try:
        control = GatewayClient(paths.gateway_socket)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, timeout=30) as client:
            messages = [{"role": "user", "content": "how wide is it"}]
            running = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            assert [choice.delta.content async for choice in first(running, 3)] == ["", "The ", "sea "]
            (view,) = await control.requests()
            assert (view.model, view.tenant, view.completion_tokens) == (MODEL, "acme", 2)
            with pytest.raises(PlugskyError) as refused:
                await control.cancel("nobody")
            assert refused.value.kind is ErrorKind.NOT_FOUND
            await control.cancel(view.job)
            with pytest.raises(openai.APIError) as ended:
                [chunk async for chunk in running]
            assert ended.value.code == "cancelled"
            assert (await control.traffic()).requests == 1

            running = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            await anext(running)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            engine.release.set()
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in running])
            assert text == "The sea is wide."
        await control.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await engine.close()
    with closing(sqlite3.connect(paths.database)) as ledger:
        rows = ledger.execute("select outcome, completion_tokens from ledgerentry order by created_us").fetchall()
    assert rows == [("cancelled", 2), ("stop", 4)]


async def first(stream, count):
    """The choice of each of the first chunks."""
    for _ in range(count):
        yield (await anext(stream)).choices[0]


@pytest.mark.parametrize(("host", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_an_address_the_policy_does_not_name_is_refused(host, family):
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {family.name}: {os.strerror(error.errno)}")
    with listener, pytest.raises(PlugskyError) as refused:
        check_listener(listener, EffectivePolicy())
    assert refused.value.kind is ErrorKind.POLICY_REFUSED
    assert refused.value.exit_code == 6


def test_loopback_is_allowed_and_more_when_the_policy_says_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        check_listener(listener, EffectivePolicy())
    with socket.create_server(("0.0.0.0", 0)) as listener:
        check_listener(listener, EffectivePolicy(bind_hosts=("0.0.0.0",)))
