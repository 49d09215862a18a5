"""Two real engines on a host with memory for one: each makes room for the other when it has nothing to do."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine_host import spec_of
from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.engine.life import rooms, supervisor
from plugsky.engine.life.rooms import Rooms
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.loading.loading import free_memory
from plugsky.server import engines
from plugsky.server.deps import ServedModel
from plugsky.server.engines import EnginePool


class OneAtATime(Rooms):
    """A host where a second model finds 10 MB."""

    def taken_beside(self, name):
        others = [engine for other, engine in self._engines.items() if other != name and engine.pid]
        return max(0, free_memory() - 10_000_000) if others else 0


@pytest.fixture
async def pair(chat_model, monkeypatch, tmp_path):
    monkeypatch.setattr(rooms, "IDLE_S", 0.5)
    monkeypatch.setattr(engines, "ROOM_S", 30.0)
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        shared = OneAtATime()
        made = {}
        for name in ("first", "second"):
            spec = replace(spec_of(chat_model), model_id=name)
            made[name] = EngineSupervisor(spec, Path(run) / f"{name}.sock", log=tmp_path / "log", rooms=shared)
        pool = EnginePool(lambda name: made[name].socket_path, 60.0, 16)
        yield made, pool
        await pool.close()
        await asyncio.gather(*(each.stop() for each in made.values()))


async def answered(pool, made, name):
    """A few tokens of the model, and who is in memory then."""
    model = ServedModel(name, made[name].spec.digest, 2048)
    engine = await pool.engine(model)
    prepared = await engine.prepare(tenant="t", text="Once upon a time")
    answer = engine.submit(
        job=f"{name}-{id(object())}", tenant="t", tokens=prepared.tokens, params=frames.Params(temperature=0.0),
        max_tokens=3,
    )  # fmt: skip
    items = [item async for item in answer]
    assert items[-1].final.usage.completion_tokens == 3
    return {other for other, each in made.items() if each.life.serves}


@pytest.mark.integration
async def test_each_makes_room_for_the_other_when_it_has_nothing_to_do(pair):
    made, pool = pair
    await made["first"].start()
    await made["first"].settled()
    await made["second"].start()
    assert await answered(pool, made, "second") == {"second"}
    assert await answered(pool, made, "first") == {"first"}
    assert await answered(pool, made, "second") == {"second"}


@pytest.mark.integration
async def test_who_finds_no_room_is_told_both_numbers_and_may_come_again(pair, monkeypatch):
    made, pool = pair
    monkeypatch.setattr(rooms, "IDLE_S", 1e9)
    monkeypatch.setattr(engines, "ROOM_S", 0.5)
    monkeypatch.setattr(supervisor, "REFUSED_S", 0.5)
    made["first"]._rooms.seen({"first": True})
    await made["first"].start()
    await made["first"].settled()
    await made["second"].start()
    problem = (await made["second"].settled()).problem
    assert "does not fit" in problem
    for _ in range(2):
        with pytest.raises(PlugskyError, match=r"does not fit into memory: .*MB"):
            await pool.engine(ServedModel("second", made["second"].spec.digest, 2048))
        async with asyncio.timeout(20):
            while made["second"].pid:  # noqa: ASYNC110 - it watches what has no event of its own
                await asyncio.sleep(0.05)
    monkeypatch.setattr(rooms, "IDLE_S", 0.0)
    monkeypatch.setattr(engines, "ROOM_S", 30.0)
    assert await answered(pool, made, "second") == {"second"}
