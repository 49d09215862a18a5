"""The engine's peer: what it makes of every way an engine can answer, refuse and vanish. The other end is scripted."""

import asyncio
import contextlib

import msgspec
import pytest

from plugsky.core import frames
from plugsky.core.errors import ErrorKind
from plugsky.engine.clients.client import EngineClient, EngineError

HELLO = frames.EngineHello(proto=1, instance="i", build="b", digest="d", n_ctx=100)
GREEDY = frames.Params(temperature=0.0)


@contextlib.asynccontextmanager
async def engine(path, script):
    """Listens on ``path``; ``script(read, write, close)`` plays the engine for each connection."""
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        buffer, pending = frames.to_engine_buffer(), []

        async def read():
            while not pending:
                data = await reader.read(65536)
                if not data:
                    raise EOFError
                pending.extend(buffer.feed(data))
            return pending.pop(0)

        def write(*sent):
            for frame in sent:
                writer.write(frame if isinstance(frame, bytes) else frames.encode(frame))

        with contextlib.suppress(EOFError, ConnectionError):
            await script(read, write, writer.close)

    server = await asyncio.start_unix_server(serve, path=path)
    try:
        yield path
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def refuse(path, *sent, within=5.0):
    async def script(read, write, close):
        await read()
        write(*sent)
        await read()

    async with engine(path, script):
        client = EngineClient(path)
        with pytest.raises(EngineError) as refusal:
            await client.connect(within)
        assert not client.connected
        return refusal.value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "e.sock"


async def test_nothing_listening_is_unreachable(path):
    with pytest.raises(EngineError) as refusal:
        await EngineClient(path).connect(1)
    assert refusal.value.kind is ErrorKind.UNREACHABLE


async def test_a_model_that_does_not_fit_is_refused_with_both_numbers(path):
    error = await refuse(path, frames.Refused(need=2000, have=1000))
    assert error.kind is ErrorKind.OVERLOADED
    assert "2.0 kB" in error.what
    assert "1.0 kB" in error.what


async def test_a_failed_load_gives_the_engines_own_error(path):
    error = await refuse(path, frames.Failed(rid=0, kind="tampered", what="it is no GGUF file"))
    assert (error.kind, error.what) == (ErrorKind.TAMPERED, "it is no GGUF file")


async def test_what_may_succeed_later_says_when_to_try_again(path):
    overloaded = await refuse(path, frames.Failed(rid=0, kind="overloaded", what="256 requests are waiting"))
    assert overloaded.retry_after


async def test_an_engine_that_loads_for_too_long_says_how_far_it_is(path):
    error = await refuse(path, frames.Loading(fraction=0.25), within=0.05)
    assert (error.kind, error.why) == (ErrorKind.LOADING, "25% of the model is read")
    assert error.retry_after


async def test_a_retiring_engine_is_to_be_tried_again(path):
    error = await refuse(path, frames.Retiring())
    assert error.kind is ErrorKind.ENGINE_LOST
    assert error.retry_after


async def test_an_engine_of_another_protocol_is_refused(path):
    error = await refuse(path, frames.EngineHello(proto=2, instance="i", build="b", digest="d", n_ctx=1))
    assert "protocol 2" in error.what


async def test_an_engine_that_cannot_be_understood_is_lost(path):
    error = await refuse(path, b"\x00\x00\x00\x01\xc1")
    assert error.kind is ErrorKind.ENGINE_LOST


async def test_an_engine_that_ends_while_loading_is_lost(path):
    async def script(read, write, close):
        await read()
        write(frames.Loading(fraction=0.1))
        close()

    async with engine(path, script):
        with pytest.raises(EngineError) as refusal:
            await EngineClient(path).connect(5)
        assert refusal.value.kind is ErrorKind.ENGINE_LOST


async def test_waiting_for_a_load_ends_with_the_engines_hello(path):
    async def script(read, write, close):
        await read()
        write(frames.Loading(fraction=0.1), frames.Loading(fraction=0.9), HELLO)
        await read()

    async with engine(path, script):
        client = EngineClient(path)
        assert await asyncio.gather(client.connect(5), client.connect(5)) == [HELLO, HELLO]
        assert client.hello is not None
        await client.close()


async def test_everything_in_flight_fails_for_itself_when_the_engine_is_lost_and_a_new_one_can_be_connected(path):
    async def script(read, write, close):
        await read()
        write(HELLO)
        submit = await read()
        await read()
        item = frames.StepItem(rid=submit.rid, ids=(5,), text="a")
        write(frames.Accepted(rid=submit.rid), frames.Step(n=1, t_us=1, items=(item,)))
        close()

    async with engine(path, script):
        client = EngineClient(path)
        await client.connect(5)
        generation = client.submit(job="1", tenant="t", tokens=(1,), params=GREEDY, max_tokens=5)
        with pytest.raises(EngineError) as stats:
            await client.stats()
        assert stats.value.kind is ErrorKind.ENGINE_LOST
        assert (await generation.accepted()).rid == generation.rid
        items = aiter(generation)
        assert (await anext(items)).text == "a"
        with pytest.raises(EngineError) as lost:
            await anext(items)
        assert lost.value.kind is ErrorKind.ENGINE_LOST
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        generation.cancel()
        with pytest.raises(EngineError):
            client.submit(job="2", tenant="t", tokens=(1,), params=GREEDY, max_tokens=5)
        assert await client.connect(5) == HELLO
        await client.close()


async def test_a_refused_request_raises_with_its_numbers_and_harms_no_other(path):
    async def script(read, write, close):
        await read()
        write(HELLO)
        first, second = await read(), await read()
        write(frames.Failed(rid=first.rid, kind="context_exceeded", what="too long", n_prompt=9, n_ctx=8))
        final = frames.Finish(reason="stop", usage=frames.Usage(1, 1))
        write(frames.Accepted(rid=second.rid))
        write(frames.Step(n=1, t_us=1, items=(frames.StepItem(rid=second.rid, ids=(5,), text="b", final=final),)))
        acknowledged.set_result(await read())
        await read()

    acknowledged = asyncio.get_running_loop().create_future()
    async with engine(path, script):
        client = EngineClient(path)
        await client.connect(5)
        wrong = client.submit(job="1", tenant="t", tokens=(1,) * 9, params=GREEDY, max_tokens=5)
        right = client.submit(job="2", tenant="t", tokens=(1,), params=GREEDY, max_tokens=5)
        with pytest.raises(EngineError) as refusal:
            await wrong.accepted()
        assert (refusal.value.n_prompt, refusal.value.n_ctx) == (9, 8)
        assert [item.text async for item in right] == ["b"]
        right.acknowledge()
        assert await acknowledged == frames.AckFinal(jobs=("2",))
        await client.close()


async def test_every_field_of_a_prepare_can_be_asked_for(path):
    asked = frames.Prepare(
        rid=1,
        tenant="t",
        adapter="a",
        messages=(frames.Message("user", "x"),),
        text="x",
        tokens=(1,),
        max_tokens=5,
        grammar="root ::= [a]",
        json_schema="{}",
        tools=(frames.Tool("look"),),
        tool_choice="required",
        tool_name="look",
        parallel_tool_calls=False,
        thinking=True,
        reasoning_effort="low",
        pair=("q", "d"),
        images=(b"x",),
        suffix="y",
        framed=False,
        shown=True,
    )
    unlike = frames.Prepare(rid=0, tenant="")
    fields = msgspec.structs.asdict(asked)
    assert all(value != getattr(unlike, name) for name, value in fields.items()), "each is told from its default"
    heard = asyncio.get_running_loop().create_future()

    async def script(read, write, close):
        await read()
        write(HELLO)
        heard.set_result(await read())
        write(frames.Prepared(rid=1, tokens=(1,), room=1))
        await read()

    async with engine(path, script):
        client = EngineClient(path)
        await client.connect(5)
        del fields["rid"]
        await client.prepare(**fields)
        assert await heard == asked
        await client.close()


async def test_text_that_no_frame_can_hold_is_refused_here(path):
    async def script(read, write, close):
        await read()
        write(HELLO)
        await read()

    async with engine(path, script):
        client = EngineClient(path)
        await client.connect(5)
        with pytest.raises(EngineError) as surrogate:
            await client.prepare(tenant="t", text="\ud800")
        with pytest.raises(EngineError) as long:
            await client.prepare(tenant="t", text="x" * frames.MAX_FRAME)
        assert (surrogate.value.kind, long.value.kind) == (ErrorKind.BAD_REQUEST, ErrorKind.TOO_LARGE)
        await client.close()
