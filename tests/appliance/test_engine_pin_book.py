"""What is pinned outlives an engine: asked for again of each next one, never in a loop of crashes, never in a log."""

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import pytest

from appliance.engine_host import answer, command_for, spec_of
from appliance.scripted_engine import ScriptedEngine
from bundles.small_llama import small_llama
from plugsky.core import frames, processes
from plugsky.core.errors import ErrorKind
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.clients.pin_book import PinBook
from plugsky.engine.errors import EngineError
from plugsky.engine.life import lifecycle
from plugsky.engine.life.supervisor import EngineSupervisor

RULES, TONE = (41, 42, 43, 44), (51, 52, 53)


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        yield Path(name) / "e.sock"


@pytest.fixture
async def engine(path):
    engine = ScriptedEngine()
    await engine.listen(path)
    yield engine
    await engine.close()


@pytest.fixture
async def client(engine, path):
    client = EngineClient(path)
    await client.connect(5)
    yield client
    await client.close()


@pytest.fixture
async def book(client):
    """A book in which two beginnings are pinned."""
    book = PinBook("poet")
    assert await book.pin(client, "rules", RULES) == len(RULES)
    await book.pin(client, "tone", TONE, "medical")
    return book


async def pinned_again(book, client, engine):
    """What the next engine is asked to pin."""
    engine.pins.clear()
    await client.close()
    await client.connect(5)
    await book.restore(client)
    return [(pin.name, pin.tokens, pin.adapter) for pin in engine.pins]


async def test_the_next_engine_is_asked_for_all_of_it(book, client, engine):
    assert await pinned_again(book, client, engine) == [("rules", RULES, ""), ("tone", TONE, "medical")]


async def test_what_was_refused_is_not_kept(book, client, engine):
    engine.script.refuse_pin = frames.Failed(0, "too_large", "there is no room")
    with pytest.raises(EngineError):
        await book.pin(client, "more", (1, 2))
    engine.script.refuse_pin = None
    assert [name for name, _, _ in await pinned_again(book, client, engine)] == ["rules", "tone"]


async def test_what_was_unpinned_does_not_come_back_even_when_the_engine_has_lost_it_or_is_away(book, client, engine):
    await book.unpin(client, "rules")
    await client.close()
    await book.unpin(client, "tone")
    assert await pinned_again(book, client, engine) == []
    with pytest.raises(EngineError) as unknown:
        await book.unpin(client, "rules")
    assert unknown.value.kind is ErrorKind.NOT_FOUND


async def test_what_an_engine_refuses_is_said_by_name_and_asked_of_the_next(book, client, engine, caplog):
    engine.script.refuse_pin = frames.Failed(0, "too_large", "there is no room")
    assert len(await pinned_again(book, client, engine)) == 2
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"engine poet: '{name}' is not pinned again: there is no room" for name in ("rules", "tone")]
    engine.script.refuse_pin = None
    assert len(await pinned_again(book, client, engine)) == 2


async def test_one_that_was_computed_when_the_engine_crashed_is_not_asked_for_again(book, client, engine, caplog):
    engine.script.die_of_pin = "rules"
    assert [name for name, _, _ in await pinned_again(book, client, engine)] == ["rules"]
    assert [name for name, _, _ in await pinned_again(book, client, engine)] == ["tone"]
    assert "'rules' is forgotten" in caplog.text
    assert not any(str(token) in caplog.text for token in RULES)


async def test_one_that_was_computed_when_the_engine_retired_is_asked_of_the_next(book, client, engine):
    engine.script.die_of_pin = "rules"
    await client.close()
    await client.connect(5)
    engine.retire()
    await book.restore(client)
    engine.script.die_of_pin = ""
    assert len(await pinned_again(book, client, engine)) == 2


@pytest.mark.integration
async def test_a_pin_is_there_again_after_the_engine_was_killed_and_after_it_retired(path, monkeypatch, caplog):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(lifecycle, "CALM_S", 3600.0)
    caplog.set_level("DEBUG")
    file = path.with_name("m.gguf")
    file.write_bytes(small_llama())
    spec = spec_of(file, n_ctx=512)
    supervisor = EngineSupervisor(spec, path, command=command_for(spec), log=path.with_suffix(".log"))
    await supervisor.start()
    await supervisor.settled()
    secret = tuple(range(65, 97))
    assert await supervisor.pin("rules", secret) == len(secret)
    client = EngineClient(path)

    async def cached_for(tenant):
        await client.connect(30)
        async with asyncio.timeout(30):
            while "rules" not in (await client.stats()).pinned:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        _, _, final = await answer(client, (*secret, 1, 2), 1, tenant=tenant)
        return final.usage.cached_tokens

    assert await cached_for("acme") == len(secret)
    os.kill(supervisor.life.pid, signal.SIGKILL)
    await client.close()
    await client.connect(30)
    _, _, final = await answer(client, (*secret, 1, 2), 1, tenant="acme")
    assert (supervisor.life.state, final.usage.cached_tokens) == ("suspect", 0)
    await supervisor.pin("tone", TONE)
    assert (await client.stats()).pinned == {"tone": len(TONE)}
    supervisor._on(lifecycle.Calm())
    assert await cached_for("zeta") == len(secret)
    client.drain()
    await client.close()
    assert await cached_for("omega") == len(secret)
    await supervisor.unpin("rules")
    assert (await client.stats()).pinned == {"tone": len(TONE)}
    await client.close()
    await supervisor.stop()
    assert not any(text in caplog.text for text in ("65, 66", "ABCD", str(secret)))
    assert "ABCD" not in path.with_suffix(".log").read_text()
