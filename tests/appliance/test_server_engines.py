"""The gateway's connections to engines: shared, waited for, replaced."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import until
from appliance.scripted_engine import DIGEST, ScriptedEngine
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import ImagePart, Message, Params
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


SEEN = {"messages": (Message("user", ("What is this", ImagePart(0))),), "images": (b"a picture",)}


async def ask_with_image(place, **changed):
    """A line, its request with an image after two pieces of its answer, and what it was prepared from."""
    await place.engine.listen(place.path)
    line = await place.pool.engine(POET)
    place.engine.script.keeps_images = True
    prepared = await line.prepare(tenant="acme", **SEEN)
    request = {"job": "j", "tenant": "acme", "tokens": prepared.tokens, "params": Params(), "max_tokens": 9}
    return line.submit(**request, **{"prompt": SEEN, **changed})


async def test_a_request_with_an_image_goes_on_after_a_crash_for_its_prompt_is_prepared_again(directory):
    async with Place(directory) as place:
        place.engine.script.die_after, place.engine.script.deaths = 2, 1
        stream = await ask_with_image(place)
        assert "".join([item.text async for item in stream]) == "The sea is wide."
        assert [prepare.images for prepare in place.engine.prepares] == [SEEN["images"]] * 2
        assert [submit.resume_tokens for submit in place.engine.submits] == [(), (0, 1), (0, 1)]


async def test_an_image_that_is_forgotten_before_the_request_comes_is_prepared_again(directory):
    async with Place(directory) as place:
        place.engine.script.hold_after = 0
        stream = await ask_with_image(place)
        place.engine.images_of = -1
        await stream.accepted()
        place.engine.release.set()
        assert "".join([item.text async for item in stream]) == "The sea is wide."


@pytest.mark.parametrize("prompt", [None, SEEN], ids=["nothing-to-prepare", "the-engine-never-keeps-it"])
async def test_a_lost_image_that_cannot_be_had_again_is_a_conflict(directory, prompt):
    async with Place(directory) as place:
        await place.engine.listen(place.path)
        line = await place.pool.engine(POET)
        place.engine.script.keeps_images = False
        request = {"job": "j", "tenant": "acme", "tokens": (0, 1, 2, 3), "params": Params(), "max_tokens": 9}
        stream = line.submit(**request, prompt=prompt)
        with pytest.raises(PlugskyError) as lost:
            await stream.accepted()
        assert (lost.value.kind, lost.value.param) == (ErrorKind.CONFLICT, "tokens")
        assert len(place.engine.prepares) == (0 if prompt is None else 1)


async def test_a_prompt_that_is_read_in_another_way_by_the_next_engine_is_not_run(directory):
    async with Place(directory) as place:
        other = {**SEEN, "messages": (Message("user", ("What is this then", ImagePart(0))),)}
        place.engine.script.die_after, place.engine.script.deaths = 2, 1
        stream = await ask_with_image(place, prompt=other)
        with pytest.raises(PlugskyError, match="reads this prompt in another way"):
            [item async for item in stream]
        assert len(place.engine.submits) == 2


async def test_a_request_that_is_cancelled_while_its_image_is_prepared_again_is_over_at_once(directory):
    async with Place(directory) as place:
        place.engine.script.die_after, place.engine.script.deaths = 2, 1
        stream = await ask_with_image(place)
        place.engine.script.silent_prepare = True
        await until(lambda: len(place.engine.prepares) == 2)
        stream.cancel()
        *_, last = [item async for item in stream]
        assert (last.final.reason, last.final.usage.completion_tokens) == ("cancelled", 2)
        assert len(place.engine.submits) == 2


async def test_a_request_that_was_cancelled_before_its_image_is_found_lost_is_over(directory):
    async with Place(directory) as place:
        stream = await ask_with_image(place)
        place.engine.images_of = -1
        stream.cancel()
        (last,) = [item async for item in stream]
        assert last.final.reason == "cancelled"
        assert len(place.engine.submits) == 1


async def dies_while_it_prepares_again(place):
    place.engine.script.die_after, place.engine.script.deaths = 2, 1
    stream = await ask_with_image(place)
    place.engine.script.silent_prepare = True
    await until(lambda: len(place.engine.prepares) == 2)
    place.engine.script.silent_prepare, place.engine.script.deaths = False, 1
    return stream


async def test_a_connection_that_is_lost_while_a_prompt_is_prepared_again_leaves_that_to_the_next(directory):
    async with Place(directory) as place:
        stream = await dies_while_it_prepares_again(place)
        place.engine.script.cut_only = True
        place.engine.die()
        assert "".join([item.text async for item in stream]) == "The sea is wide."
        assert len(place.engine.prepares) == 3


async def test_an_engine_that_dies_of_preparing_a_prompt_again_counts_that_against_the_request(directory):
    async with Place(directory) as place:
        stream = await dies_while_it_prepares_again(place)
        place.engine.die()
        with pytest.raises(PlugskyError, match="ended the model's engine twice"):
            [item async for item in stream]
