"""Peers of the real engine that misbehave: wherever they vanish, nobody else notices, and nothing of them stays."""

import asyncio
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.engine_host import answer, running_engine, spec_of
from plugsky.core import frames, ids
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params
from plugsky.engine.clients.client import EngineClient, EngineError

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ENDLESS = Params(temperature=0.0, ignore_eos=True)
LONG_PROMPT = tuple(range(1, 1200))
HELLO = frames.encode(frames.ClientHello())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(chat_model):
    """One engine for all tests here: (socket, process)."""
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        path = Path(name) / "e.sock"
        async with running_engine(spec_of(chat_model), path) as child:
            yield path, child


@pytest_asyncio.fixture(loop_scope="module")
async def client(engine):
    client = EngineClient(engine[0])
    await client.connect(60)
    yield client
    await client.close()


async def until_idle(client):
    """Wait for the engine to have nothing to do."""
    async with asyncio.timeout(60):
        while True:
            stats = await client.stats()
            if not stats.running and not stats.waiting:
                return stats
            await asyncio.sleep(0.01)


def submit(job, tokens=(1, 2), max_tokens=500):
    return frames.encode(
        frames.Submit(rid=1, job=job, tenant="acme", tokens=tokens, params=ENDLESS, max_tokens=max_tokens)
    )


async def heard(reader, kind):
    """Read until a frame of that kind."""
    buffer = frames.from_engine_buffer()
    async with asyncio.timeout(60):
        while data := await reader.read(1 << 16):
            if any(isinstance(frame, kind) for frame in buffer.feed(data)):
                return
    raise AssertionError("the engine closed the connection")


STAGES = {
    "as soon as it is connected": (b"", None),
    "after its hello": (HELLO, frames.EngineHello),
    "in the middle of a frame": (HELLO + submit("half")[:-3], frames.EngineHello),
    "while its prompt is prepared": (HELLO + frames.encode(frames.Prepare(rid=1, tenant="a", text="x" * 99_999)), None),
    "while it is queued": (HELLO + submit("queued"), None),
    "while its prompt is computed": (HELLO + submit("prefill", LONG_PROMPT), frames.Accepted),
    "in the middle of its answer": (HELLO + submit("decode"), frames.Step),
    "before it has acknowledged its answer": (HELLO + submit("final", max_tokens=1), frames.Step),
}


@pytest.mark.parametrize(("said", "until"), STAGES.values(), ids=STAGES.keys())
async def test_a_peer_may_vanish_and_no_other_notices(engine, client, said, until):
    good = asyncio.create_task(answer(client, (1, 2, 3), 6, params=ENDLESS))
    reader, writer = await asyncio.open_unix_connection(engine[0])
    writer.write(said)
    await writer.drain()
    if until is not None:
        await heard(reader, until)
    writer.transport.abort()
    made, _, final = await good
    assert (len(made), final.reason) == (6, "length")
    await until_idle(client)


async def test_a_thousand_requests_and_as_many_cancels_at_once_harm_nobody_and_take_no_memory(engine, client):
    other = EngineClient(engine[0])
    await other.connect(60)
    await thousand_cancels(other)
    before = (await until_idle(client)).rss_bytes
    good = client.submit(job=ids.new_id(), tenant="acme", tokens=(1, 2, 3), params=ENDLESS, max_tokens=6)
    await good.accepted()
    reasons = await thousand_cancels(other)
    assert await reason_of(good) == "length"
    assert reasons <= {"cancelled", ErrorKind.OVERLOADED}
    assert (await until_idle(client)).rss_bytes < before + (16 << 20)
    await other.close()


async def thousand_cancels(client):
    running = [
        client.submit(job=ids.new_id(), tenant=f"t{n % 9}", tokens=(1, 2, n), params=ENDLESS, max_tokens=500)
        for n in range(1000)
    ]
    for one in running:
        one.cancel()
    return {await reason_of(one) for one in running}


async def reason_of(running):
    try:
        last = [item async for item in running][-1]
    except EngineError as error:
        return error.kind
    running.acknowledge()
    return last.final.reason


async def test_it_has_opened_no_network_socket(engine, client):
    await answer(client, (1, 2, 3), 2)
    pid = engine[1].pid
    assert sockets_of(pid), "it has at least its listener"
    assert sockets_of(pid) <= unix_sockets(pid) | unix_sockets("self")
    assert not sockets_of(pid) & network_sockets(pid)


def sockets_of(pid):
    """The inodes of the sockets that a process holds."""
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return {int(target[8:-1]) for target in targets if target.startswith("socket:[")}


def unix_sockets(pid):
    """The inodes of the Unix sockets in the network namespace of a process."""
    return {int(line.split()[6]) for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]}


def network_sockets(pid):
    """The inodes of the Internet sockets in the network namespace of a process."""
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")]
    lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return {int(line.split()[9]) for line in lines}
