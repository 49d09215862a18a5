"""The canary: silent in a healthy engine, and loud when sequences read each other's cells."""

import asyncio
import math
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from appliance import engine_host
from appliance.engine_host import answer, command_for, running_engine, spec_of
from bundles.small_llama import small_llama
from plugsky.core import processes
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import EngineError
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.known_text import TEXT
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.llama import native
from plugsky.engine.loading import canary
from plugsky.engine.loading.canary import BOUND, Verdict

FIRST = 4


class ScriptedReader:
    """The next token is sure to be that of ``wrong``, if it is not None and there are neighbours, else the same one."""

    def __init__(self, wrong=None, refuses=False):
        self.wrong, self.refuses, self.cleared, self.computed = wrong, refuses, [], 0

    def decode(self, chunks):
        self.computed += sum(len(chunk.tokens) for chunk in chunks)
        among = len({chunk.seq for chunk in chunks}) > 1
        assert all(FIRST <= chunk.seq < FIRST + canary.SEQUENCES for chunk in chunks)
        if among and self.refuses:
            raise native.BatchRefusedError
        row = np.zeros(16, dtype=np.float32)
        row[self.wrong if among and self.wrong is not None else 0] = 10.0
        return [row for chunk in chunks if chunk.outputs]

    def clear(self, place):
        self.cleared.append(place)


READERS = {
    "one that says the same": (ScriptedReader(), False),
    "one that says something else among neighbours": (ScriptedReader(wrong=5), True),
    "one that says what is no number": (ScriptedReader(wrong=slice(None)), True),
    "one that refuses the neighbours": (ScriptedReader(refuses=True), True),
}


@pytest.mark.parametrize(("reader", "tripped"), READERS.values(), ids=READERS)
def test_it_trips_when_neighbours_make_a_difference(reader, tripped):
    if reader.wrong == slice(None):
        reader.wrong = slice(0, 0)
        reader.decode = lambda chunks, decode=reader.decode: [row * np.float32("nan") for row in decode(chunks)]
    verdict = canary.run(reader, range(1, 8), FIRST)
    assert verdict.tripped == tripped
    assert reader.cleared[-canary.SEQUENCES :] == [4, 5, 6]


def test_it_costs_what_it_says_and_fits_into_its_cells():
    reader = ScriptedReader()
    canary.run(reader, range(1, 8), FIRST)
    assert reader.computed == canary.COST
    assert reader.computed <= canary.CELLS


def test_a_tripped_engine_is_refused_with_both_numbers():
    canary.refuse_tripped(Verdict(BOUND, 1))
    for kl in (0.5, math.inf, math.nan):
        with pytest.raises(EngineError) as refusal:
            canary.refuse_tripped(Verdict(kl, 1))
        assert refusal.value.kind is ErrorKind.INTERNAL
        assert str(BOUND) in refusal.value.why


class Leaking(native.Context):
    """After each batch of several sequences the canary's also holds the first ``leak`` cells of its neighbour."""

    leak = 0

    def decode(self, chunks):
        rows = super().decode(chunks)
        if self.leak and len({chunk.seq for chunk in chunks}) > 1:
            llama_cpp.llama_memory_seq_cp(self._memory, FIRST + 1, FIRST, 0, self.leak)
        return rows


@pytest.mark.integration
def test_eight_leaked_cells_trip_it_and_none_do_not(chat_model):
    model = native.Model(chat_model, lambda _fraction: True)
    context = Leaking(model, Holding(512, 256, FIRST + canary.SEQUENCES, 64), threads=2)
    tokens = model.tokens(TEXT.read_text(), add_special=True, parse_special=False)
    healthy = canary.run(context, tokens, FIRST)
    context.leak = 8
    leaking = canary.run(context, tokens, FIRST)
    context.close()
    model.close()
    assert not healthy.tripped, healthy
    assert leaking.tripped, leaking
    assert leaking.kl > 5 * BOUND


@pytest.mark.integration
async def test_a_real_engine_reads_it_at_load_and_when_asked(chat_model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.sock"
        async with running_engine(spec_of(chat_model), path):
            client = EngineClient(path)
            await client.connect(60)
            assert 0 <= (await client.stats()).canary_kl <= BOUND
            prepared = await client.prepare(tenant="t", text="The road")
            running = asyncio.ensure_future(answer(client, prepared.tokens, 24))
            reply = await client.canary()
            assert not reply.tripped
            assert (reply.bound, (await client.stats()).canary_kl) == (BOUND, reply.kl)
            made, _, final = await running
            assert final.usage.completion_tokens == len(made)
            await client.close()


LEAK = 4242
LEAKS = f"""
import llama_cpp
from plugsky.engine.llama import native
from plugsky.engine.loading import loading
decode = native.Context.decode
leaking = False
def decode_and_leak(self, chunks):
    global leaking
    rows = decode(self, chunks)
    leaking = leaking or any({LEAK} in tuple(chunk.tokens) for chunk in chunks)
    if leaking and len({{chunk.seq for chunk in chunks}}) > 1:
        llama_cpp.llama_memory_seq_cp(self._memory, loading.SEQUENCES + 1, loading.SEQUENCES, 0, 8)
    return rows
native.Context.decode = decode_and_leak
"""
"""From the first batch with a certain token on, the canary's sequence also holds eight cells of its neighbour."""


@pytest.mark.integration
async def test_an_engine_that_begins_to_leak_is_found_out_when_asked_ends_and_is_replaced(chat_model, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(engine_host, "_ENTRY", LEAKS + engine_host._ENTRY)
    spec = spec_of(chat_model, n_ctx=1024)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.sock"
        supervisor = EngineSupervisor(spec, path, command=command_for(spec), log=Path(folder) / "log")
        await supervisor.start()
        await supervisor.settled()
        client = EngineClient(path)
        await client.connect(60)
        first = client.hello.instance
        params = Params(temperature=0.0, ignore_eos=True)
        busy = [asyncio.ensure_future(answer(client, (n, n + 1), 900, params=params)) for n in (1, 2)]
        assert not (await client.canary()).tripped
        await answer(client, (1, LEAK), 2)
        reply = await client.canary()
        assert reply.tripped
        assert reply.kl > BOUND
        for lost in await asyncio.gather(*busy, return_exceptions=True):
            assert lost.kind is ErrorKind.ENGINE_LOST
        await client.connect(60)
        assert client.hello.instance != first
        assert not (await client.canary()).tripped
        status = await supervisor.status()
        assert (status.state, status.restarts) == ("suspect", 1)
        assert status.problem == "the engine ended with exit code 1"
        await client.close()
        await supervisor.stop()


@pytest.mark.integration
async def test_an_engine_whose_canary_trips_is_never_ready(tmp_path, monkeypatch):
    file = tmp_path / "small.gguf"
    file.write_bytes(small_llama())
    tripping = "from plugsky.engine.loading import canary\ncanary.BOUND = -1.0\n"
    monkeypatch.setattr(engine_host, "_ENTRY", tripping + engine_host._ENTRY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.sock"
        async with running_engine(spec_of(file), path):
            with pytest.raises(EngineError, match="the canary tripped"):
                await EngineClient(path).connect(60)
