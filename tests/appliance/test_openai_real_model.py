"""The whole way with nothing scripted: SDK, gateway, a supervised engine process, a real model, the books."""

import asyncio
import hashlib
import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.api_site import LIMITS, ApiSite
from plugsky.engine.supervisor import EngineSpec, EngineSupervisor
from plugsky.server.deps import ServedModel

PATIENT = replace(LIMITS, load_wait_s=120.0, request_timeout_s=240.0)


@pytest.mark.integration
async def test_a_real_model_answers_streams_is_cancelled_and_comes_back_after_a_crash(tmp_path, chat_model):
    digest = hashlib.sha256(chat_model.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), PATIENT) as site:
            site.gateway.models["smol"] = ServedModel("smol", digest, 2048)
            spec = EngineSpec("smol", chat_model, digest, "generate", 1024, 2)
            supervisor = EngineSupervisor(spec, site.paths.engine_socket("smol"), log=tmp_path / "engine.log")
            await supervisor.start()
            try:
                await walk(site, supervisor)
            finally:
                await supervisor.stop()
            assert [row.outcome for row in site.rows()] == ["length", "length", "cancelled", "length", "length"]
            assert site.ledger.report().open_reservations == 0


async def walk(site, supervisor):
    """Ask, stream, hang up, crash, ask again."""
    ask = {"model": "smol", "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}
    create = site.client.with_options(timeout=240).chat.completions.create
    whole, chunks = await asyncio.gather(
        create(**ask, max_tokens=6),
        create(**ask, max_tokens=6, stream=True, stream_options={"include_usage": True}),
    )
    pieces = [chunk async for chunk in chunks]
    text = "".join(choice.delta.content or "" for chunk in pieces for choice in chunk.choices)
    assert whole.choices[0].message.content
    assert text
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens == 6

    running = await create(**ask, max_tokens=600, stream=True)
    await anext(aiter(running))
    await running.close()
    assert await site.gateway.flights.landed(60)

    running = aiter(await create(**ask, max_tokens=60, stream=True, stream_options={"include_usage": True}))
    for _ in range(3):
        await anext(running)
    os.kill((await supervisor.status()).pid, signal.SIGKILL)
    rest = [chunk async for chunk in running]
    assert rest[-1].usage.completion_tokens == 60
    assert rest[-2].choices[0].finish_reason == "length"
    assert (await create(**ask, max_tokens=2)).usage.completion_tokens == 2
