"""The gateway's connections to engines: shared, waited for, replaced."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import until
from appliance.scripted_engine import DIGEST, ScriptedEngine
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Message, Params
from plugsky.server.deps import ServedModel
from plugsky.server.engines import EnginePool

POET = ServedModel("poet-1b", DIGEST, 2048)


class Place:
    """A socket directory with a pool that looks there."""

    def __init__(self, directory, **limits):
        self.path = Path(directory) / "poet-1b.sock"
        self.pool = EnginePool(lambda _model: self.path, **{"load_wait_s": 2.0, "max_waiting": 4, **limits})
        self.engine = ScriptedEngine()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_failure):
        await self.pool.close()
        if self.path.exists():
            await self.engine.close()


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        yield run


async def test_many_requests_share_one_connection(directory):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        found = await asyncio.gather(*(place.pool.engine(POET) for _ in range(4)))
        assert len(set(map(id, found))) == 1
        assert place.engine.connections == 1
        assert place.pool.context_of(POET) == 128


async def test_an_engine_that_is_about_to_start_is_waited_for(directory):
    async with Place(directory) as place:
        assert place.pool.context_of(POET) == 2048
        waiting = asyncio.create_task(place.pool.engine(POET))
        await asyncio.sleep(0.1)
        await place.engine.listen(place.path)
        assert (await waiting).hello.digest == DIGEST


async def test_an_engine_that_never_starts_is_loading_with_a_time_to_retry(directory):
    async with Place(directory, load_wait_s=0.2) as place:
        with pytest.raises(PlugskyError) as refused:
            await place.pool.engine(POET)
        assert refused.value.kind is ErrorKind.LOADING
        assert refused.value.retry_after >= 1


async def test_only_so_many_requests_wait_for_a_load(directory):
    async with Place(directory, load_wait_s=0.3, max_waiting=2) as place:
        waiting = [asyncio.create_task(place.pool.engine(POET)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(PlugskyError) as refused:
            await place.pool.engine(POET)
        assert refused.value.kind is ErrorKind.OVERLOADED
        assert "2" in refused.value.what + refused.value.why
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert outcome.kind is ErrorKind.LOADING


async def test_a_request_that_gives_up_does_not_take_the_connection_from_the_others(directory):
    async with Place(directory) as place:
        first, second = (asyncio.create_task(place.pool.engine(POET)) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        await place.engine.listen(place.path)
        assert (await second).connected


async def test_a_lost_engine_is_connected_to_anew(directory):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        first = await place.pool.engine(POET)
        await place.engine.close()
        await until(lambda: not first.connected)
        place.path.unlink(missing_ok=True)  # from Python 3.13 on asyncio has removed it
        await place.engine.listen(place.path)
        second = await place.pool.engine(POET)
        assert second.connected
        assert place.engine.connections == 2


async def test_a_retiring_engine_keeps_its_answers_and_what_comes_waits_for_the_next(directory):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        line = await place.pool.engine(POET)
        place.engine.script.hold_after = 0
        stream = line.submit(job="j", tenant="acme", tokens=(1,), params=Params(), max_tokens=9)
        await stream.accepted()
        place.engine.retire()
        await until(lambda: not line.connected)
        waiting = asyncio.create_task(place.pool.engine(POET))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert place.engine.connections == 1
        place.engine.release.set()
        assert [item.text async for item in stream][-2:] == ["wide.", ""]
        assert (await waiting).connected
        assert place.engine.connections == 2


HELLO = (Message("user", "a b c"),)


async def test_a_request_that_crosses_the_end_of_an_idle_engine_is_answered_by_the_next(directory):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        line = await place.pool.engine(POET)
        place.engine.retire()
        stream = line.submit(job="j", tenant="acme", tokens=(1,), params=Params(), max_tokens=9)
        prepared = await line.prepare(tenant="acme", messages=HELLO)
        assert len(prepared.tokens) == 3
        assert "".join([item.text async for item in stream]) == "The sea is wide."
        assert place.engine.connections == 2


async def test_a_request_between_two_frames_of_which_the_engine_retires_goes_on(directory):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        line = await place.pool.engine(POET)
        prepared = await line.prepare(tenant="acme", messages=HELLO)
        place.engine.retire()
        await until(lambda: not line._client.connected)
        stream = line.submit(job="j", tenant="acme", tokens=prepared.tokens, params=Params(), max_tokens=9)
        assert "".join([item.text async for item in stream]) == "The sea is wide."


async def test_of_an_engine_that_ended_the_next_is_not_called_until_somebody_wants_it(directory):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        line = await place.pool.engine(POET)
        place.engine.retire()
        await until(lambda: not line._client.connected)
        await asyncio.sleep(0.1)
        assert place.engine.connections == 1
        assert await place.pool.engine(POET) is line
        assert place.engine.connections == 2


async def test_when_no_engine_comes_after_one_that_retired_all_are_told_and_the_next_request_tries_anew(directory):
    async with Place(directory, load_wait_s=0.3) as place:
        await place.engine.listen(place.path)
        line = await place.pool.engine(POET)
        place.engine.retire()
        await until(lambda: not line._client.connected)
        await place.engine.close()
        place.path.unlink(missing_ok=True)
        waiting = [place.pool.engine(POET), place.pool.engine(POET), line.prepare(tenant="acme", messages=HELLO)]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [end.kind for end in ends] == [ErrorKind.LOADING] * 3
        await place.engine.listen(place.path)
        assert (await place.pool.engine(POET)).connected
