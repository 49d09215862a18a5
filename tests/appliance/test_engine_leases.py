"""Two real engines on one host: the one that works has the cores, and both share them while both work."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest

from appliance.engine_host import answer, command_for, spec_of
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.life.leases import lend_cores
from plugsky.engine.life.supervisor import EngineSupervisor

pytestmark = pytest.mark.integration


async def until(engines, expected):
    """Wait until the engines were told these cores."""
    for _ in range(1200):
        if {name: (await engine.status()).threads for name, engine in engines.items()} == expected:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the engines never had {expected}")


async def test_cores_go_where_the_work_is_and_answers_stay_whole(chat_model):
    spec = spec_of(chat_model, n_ctx=512)
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pse-")))
        engines, clients = {}, {}
        for name in ("a", "b"):
            engine = EngineSupervisor(
                spec, folder / f"{name}.sock", command=command_for(spec), log=folder / f"{name}.log"
            )
            await engine.start()
            stack.push_async_callback(engine.stop)
            engines[name], clients[name] = engine, EngineClient(engine.socket_path)
            stack.push_async_callback(clients[name].close)
        for name in engines:
            assert (await engines[name].settled()).serves
            await clients[name].connect(60)
        lending = asyncio.create_task(lend_cores(2, engines, lambda _busy: None))
        stack.callback(lending.cancel)
        await until(engines, {"a": 1, "b": 1})

        first = asyncio.create_task(answer(clients["a"], (1, 2, 3), 200))
        await until(engines, {"a": 2, "b": 1})
        second = asyncio.create_task(answer(clients["b"], (1, 2, 3), 40))
        await until(engines, {"a": 1, "b": 1})
        await second
        await first
        assert not lending.done()
        await until(engines, {"a": 1, "b": 1})
