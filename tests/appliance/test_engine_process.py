"""The real engine with the real model: it answers, batches and refuses, and no peer can harm another."""

import asyncio
import contextlib
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.engine_host import answer, collect, digest_of, running_engine, spec_of
from plugsky.core import frames, ids
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Message, Params
from plugsky.engine.clients.client import EngineClient, EngineError
from plugsky.engine.llama import native

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

GREEDY = Params(temperature=0.0)
CAPITAL = (Message("user", "What is the capital of France? Answer in one word."),)


@pytest.fixture(scope="module")
def folder():
    """A short path: the address of a Unix socket ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(chat_model, folder):
    """One engine for all tests here: (socket, process)."""
    async with running_engine(spec_of(chat_model), folder / "e.sock") as child:
        yield folder / "e.sock", child


@pytest_asyncio.fixture(loop_scope="module")
async def client(engine):
    client = EngineClient(engine[0])
    await client.connect(60)
    yield client
    await client.close()


@pytest_asyncio.fixture(loop_scope="module")
async def other(engine):
    """Another peer of the same engine, which must never notice what the first one does."""
    client = EngineClient(engine[0])
    await client.connect(60)
    yield client
    await client.close()


async def until(holds, client):
    """Ask the engine how it stands until ``holds`` of the answer."""
    async with asyncio.timeout(60):
        for _ in range(6000):
            if holds(await client.stats()):
                return
            await asyncio.sleep(0.01)


async def until_idle(client):
    """Wait for the engine to have nothing to do; it must then hold no cell."""
    await until(lambda stats: not stats.running and not stats.waiting, client)
    assert (await client.stats()).kv_used == 0


async def test_it_answers_from_the_model(client):
    prepared = await client.prepare(tenant="acme", messages=CAPITAL)
    made, text, final = await answer(client, prepared.tokens, 16)
    assert "Paris" in text
    assert final.reason in ("stop", "length")
    assert final.usage.prompt_tokens == len(prepared.tokens)
    assert final.usage.completion_tokens == len(made)
    assert final.usage.engine_us > 0


async def test_its_hello_says_what_it_is(client, engine, chat_model):
    hello = client.hello
    assert (hello.proto, hello.digest, hello.n_ctx) == (frames.PROTOCOL, digest_of(chat_model), 2048)
    assert hello.build.startswith("llama-cpp-python-0.3.36-")


async def test_it_has_no_network_when_it_says_so(client, engine):
    if "netns" not in client.hello.caps:
        pytest.skip("this kernel lets nobody leave the network namespace")
    assert network_of(engine[1].pid) != network_of("self")
    assert interfaces_of(engine[1].pid) == ["lo"]


def network_of(pid):
    return Path(f"/proc/{pid}/ns/net").readlink()


def interfaces_of(pid):
    return [line.split(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]


async def test_several_sequences_take_one_step_together(client):
    prompts = [await client.prepare(tenant="acme", messages=(Message("user", f"Count to {n}."),)) for n in range(6)]
    before = await client.stats()
    results = await asyncio.gather(*(answer(client, prompt.tokens, 12) for prompt in prompts))
    after = await client.stats()
    made = sum(len(ids) for ids, _, _ in results)
    assert made > 40
    assert after.completion_tokens - before.completion_tokens == made
    assert after.steps - before.steps < made / 2
    assert after.kv_used == 0
    assert 0 < after.parked <= after.highest <= after.kv_cells


async def test_the_same_seed_gives_the_same_answer_and_another_seed_another(client):
    prepared = await client.prepare(tenant="acme", messages=(Message("user", "Tell me a story."),))
    chain = {"temperature": 1.5, "top_k": 100, "top_p": 0.95, "min_p": 0.01, "repeat_penalty": 1.1}
    texts = [(await answer(client, prepared.tokens, 12, params=Params(seed=seed, **chain)))[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


async def test_an_answer_ends_before_a_stop_string(client):
    prepared = await client.prepare(tenant="acme", messages=CAPITAL)
    _, text, final = await answer(client, prepared.tokens, 16, params=Params(temperature=0.0, stop=("aris",)))
    assert text.endswith("P")
    assert final.reason == "stop"


async def test_a_bias_decides(client):
    (token, *_rest) = (await client.prepare(tenant="acme", text=" blue")).tokens
    made, text, _ = await answer(client, (1, 2, 3), 3, params=Params(temperature=0.0, logit_bias={token: 1000.0}))
    assert (made, text) == ([token] * 3, " blue" * 3)


async def test_a_penalty_keeps_a_token_from_coming_again(client):
    (token, *_rest) = (await client.prepare(tenant="acme", text=" blue")).tokens
    params = Params(temperature=0.0, logit_bias={token: 50.0}, frequency_penalty=100.0)
    made, _, _ = await answer(client, (1, 2, 3), 3, params=params)
    assert made.count(token) == 1


async def test_every_character_of_a_prompt_survives(client, chat_model):
    text = "Grüße, 世界! 👩‍👩‍👧 \x00 العربية\n"
    prepared = await client.prepare(tenant="acme", messages=(Message("user", text),))
    model = native.Model(chat_model, lambda _fraction: True)
    try:
        assert text.encode() in b"".join(map(model.piece, prepared.tokens))
    finally:
        model.close()


async def test_a_resumed_answer_goes_on_where_it_was(client):
    prepared = await client.prepare(tenant="acme", messages=CAPITAL)
    whole, _, _ = await answer(client, prepared.tokens, 6)
    rest, _, final = await answer(client, prepared.tokens, 6, resume_tokens=tuple(whole[:3]))
    assert rest == whole[3:]
    assert final.usage.completion_tokens == len(whole)


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(client):
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="acme", messages=(Message("user", "word " * 5000),))
    error = refusal.value
    assert error.kind is ErrorKind.CONTEXT_EXCEEDED
    assert error.n_prompt > 5000
    assert error.n_ctx == 2048
    assert "maximum context length is 2048 tokens" in error.what
    assert str(error.n_prompt) in error.what


async def test_a_prompt_and_its_answer_longer_than_the_context_are_refused(client):
    prepared = await client.prepare(tenant="acme", text="word", max_tokens=2000)
    assert prepared.room == 2048 - len(prepared.tokens)
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="acme", text="word", max_tokens=2048)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.CONTEXT_EXCEEDED, "max_tokens")
    with pytest.raises(EngineError) as submitted:
        await answer(client, prepared.tokens, 2048)
    assert submitted.value.kind is ErrorKind.CONTEXT_EXCEEDED


WRONG_PROMPTS = {
    "no tokens": {"tokens": ()},
    "no text": {"text": ""},
    "no messages": {"messages": ()},
    "nothing at all": {},
    "two kinds of prompt": {"tokens": (1,), "text": "a"},
    "a token after the last": {"tokens": (1, 49152)},
    "a negative token": {"tokens": (-1,)},
    "a token of 64 bits": {"tokens": (1 << 62,)},
    "less than no room": {"text": "a", "max_tokens": -1},
}


@pytest.mark.parametrize("prompt", WRONG_PROMPTS.values(), ids=WRONG_PROMPTS.keys())
async def test_a_wrong_prompt_is_refused(client, prompt):
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="acme", **prompt)
    assert refusal.value.kind is ErrorKind.BAD_REQUEST


async def test_an_adapter_that_is_not_there_is_refused(client):
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="acme", text="a", adapter="medical")
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.MODEL_NOT_FOUND, "adapter")


WRONG_SUBMITS = {
    "no tokens": {"tokens": ()},
    "a token out of range": {"tokens": (49152,)},
    "a resumed token out of range": {"resume_tokens": (-5,)},
    "nothing left to make": {"resume_tokens": (1,) * 4},
    "no answer asked for": {"max_tokens": 0},
    "a temperature that is no number": {"params": Params(temperature=float("nan"))},
    "an endless job id": {"job": "x" * 1000},
    "a tenant without a name": {"tenant": ""},
    "a deadline in the past": {"deadline_us": 0},
    "more scored than there is": {"params": Params(prompt_logprobs=0), "scored": 2},
    "an answer to a prompt that is not scored yet": {"params": Params(prompt_logprobs=0), "resume_tokens": (1,)},
}


@pytest.mark.parametrize("wrong", WRONG_SUBMITS.values(), ids=WRONG_SUBMITS.keys())
async def test_a_wrong_submit_fails_alone(client, wrong):
    good = asyncio.create_task(answer(client, (1, 2, 3), 4))
    with pytest.raises(EngineError) as refusal:
        await answer(client, **{"tokens": (1, 2), "max_tokens": 4, **wrong})
    assert refusal.value.kind is ErrorKind.BAD_REQUEST
    assert len((await good)[0]) == 4


async def test_a_job_sent_again_after_its_end_is_answered_from_where_the_peer_is_and_not_run_again(client, other):
    job = ids.new_id()
    generation = client.submit(job=job, tenant="acme", tokens=(1, 2), params=GREEDY, max_tokens=3)
    items = [item async for item in generation]
    whole = [token for item in items for token in item.ids]
    await client.close()
    steps = (await other.stats()).steps
    again = other.submit(job=job, tenant="acme", tokens=(1, 2), params=GREEDY, max_tokens=3)
    (repeated,) = [item async for item in again]
    assert list(repeated.ids) == whole
    assert (repeated.text, repeated.final) == ("".join(item.text for item in items), items[-1].final)
    rest, _, final = await answer(other, (1, 2), 3, job=job, resume_tokens=tuple(whole[:2]))
    assert (rest, final) == (whole[2:], items[-1].final)
    assert (await other.stats()).steps == steps


async def test_a_prompt_is_scored_without_an_answer_and_again_for_who_lacks_some_of_it(client, other):
    prepared = await client.prepare(tenant="acme", text="The capital of France is Paris. " * 10, max_tokens=0)
    tokens, job, params = prepared.tokens, ids.new_id(), Params(prompt_logprobs=2)
    generation = client.submit(job=job, tenant="acme", tokens=tokens, params=params, max_tokens=0)
    items = [item async for item in generation]
    known = [one for item in items for one in item.prompt_logprobs]
    final = items[-1].final
    assert len(known) == len(tokens) - 1
    assert all(len(one.top) == 2 and one.logprob <= one.top[0][2] for one in known)
    first, second = (sum(one.logprob for one in known[start : start + 7]) for start in (0, 35))
    assert second > first, "what was read before is less surprising"
    assert (final.reason, final.usage.prompt_tokens, final.usage.completion_tokens) == ("length", len(tokens), 0)
    await client.close()
    scoring = {"job": job, "tenant": "acme", "tokens": tokens, "params": params, "max_tokens": 0}
    (repeated,) = [item async for item in other.submit(**scoring, scored=len(known))]
    assert (repeated.prompt_logprobs, repeated.final) == ((), final)
    anew = [item async for item in other.submit(**scoring, scored=len(known) - 3)]
    assert sum(len(item.prompt_logprobs) for item in anew) == 3
    assert anew[-1].final.usage.prompt_tokens == len(tokens)


async def test_a_pinned_beginning_is_found_by_every_tenant_and_by_none_once_it_is_unpinned(client):
    rules = (await client.prepare(tenant="acme", text="Be brief, be kind, and never guess. " * 12)).tokens

    async def cached(tenant, *end):
        _, _, final = await answer(client, (*rules, *end), 1, tenant=tenant)
        return final.usage.cached_tokens

    assert await cached("globex", 5) == 0
    assert (await client.pin("house rules", rules)).cells == len(rules)
    assert (await client.pin("house rules", rules)).cells == len(rules), "asked again, it is there"
    assert await cached("initech", 6) == len(rules)
    stats = await client.stats()
    assert (stats.pinned, stats.kv_used) == ({"house rules": len(rules)}, len(rules))
    with pytest.raises(EngineError) as refusal:
        await client.pin("the whole context", (7,) * 2000)
    assert (refusal.value.kind, "512 cells" in refusal.value.what) == (ErrorKind.TOO_LARGE, True)
    assert (await client.unpin("house rules")).cells == 0
    assert await cached("umbrella", 8) == 0
    await until_idle(client)


WRONG_PINS = {
    "no tokens": {"tokens": ()},
    "a token out of range": {"tokens": (49152,)},
    "no name": {"name": ""},
    "an adapter": {"adapter": "medical"},
}


@pytest.mark.parametrize("wrong", WRONG_PINS.values(), ids=WRONG_PINS.keys())
async def test_a_wrong_pin_is_refused_and_takes_no_room(client, wrong):
    with pytest.raises(EngineError):
        await client.pin(**{"name": "rules", "tokens": (1, 2, 3), **wrong})
    with pytest.raises(EngineError) as refusal:
        await client.unpin("rules")
    assert (refusal.value.kind, (await client.stats()).pinned) == (ErrorKind.NOT_FOUND, {})


async def test_a_job_that_runs_cannot_be_started_twice(client, other):
    job = ids.new_id()
    generation = client.submit(job=job, tenant="acme", tokens=(1, 2), params=GREEDY, max_tokens=40)
    await generation.accepted()
    with pytest.raises(EngineError) as refusal:
        await answer(other, (1, 2), 3, job=job)
    assert refusal.value.kind is ErrorKind.CONFLICT
    generation.cancel()
    await collect(generation)


async def test_cancelling_ends_a_request_and_tells_what_it_used(client):
    ignoring = Params(temperature=0.0, ignore_eos=True)
    generation = client.submit(job=ids.new_id(), tenant="acme", tokens=(1, 2), params=ignoring, max_tokens=2000)
    items = aiter(generation)
    await anext(items)
    generation.cancel()
    final = [item async for item in items][-1].final
    assert final.reason == "cancelled"
    assert 1 <= final.usage.completion_tokens < 2000
    generation.acknowledge()
    await until_idle(client)


async def test_a_deadline_ends_a_request_with_what_it_made(client):
    params = Params(temperature=0.0, ignore_eos=True)
    made, _, final = await answer(client, (1, 2), 2000, params=params, deadline_us=300_000)
    assert final.reason == "deadline"
    assert final.usage.completion_tokens == len(made)


async def test_hundreds_of_requests_and_as_many_cancels_leave_nothing_behind(client, other):
    generations = [
        client.submit(job=ids.new_id(), tenant=f"t{n % 7}", tokens=(1, 2, n), params=GREEDY, max_tokens=500)
        for n in range(400)
    ]
    for generation in generations:
        generation.cancel()
    ends = await asyncio.gather(*map(collect, generations), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, EngineError)]
    assert all(error.kind is ErrorKind.OVERLOADED and "256 requests" in error.what for error in refused)
    assert {end[2].reason for end in ends if not isinstance(end, EngineError)} <= {"cancelled"}
    await until_idle(other)


async def test_a_peer_that_vanishes_has_its_requests_cancelled(engine, other):
    leaving = EngineClient(engine[0])
    await leaving.connect(10)
    params = Params(temperature=0.0, ignore_eos=True)
    generations = [
        leaving.submit(job=ids.new_id(), tenant="acme", tokens=(1, 2), params=params, max_tokens=2000) for _ in range(3)
    ]
    await asyncio.gather(*(generation.accepted() for generation in generations))
    await leaving.prepare(tenant="acme", text="a")
    await leaving.close()
    await until_idle(other)


@contextlib.asynccontextmanager
async def raw(engine):
    reader, writer = await asyncio.open_unix_connection(engine[0])
    try:
        yield reader, writer
    finally:
        writer.close()


HELLO = frames.encode(frames.ClientHello())
INTRUSIONS = {
    "no hello": frames.encode(frames.Stats(rid=1)),
    "another protocol": frames.encode(frames.ClientHello(proto=9)),
    "hello twice": HELLO + HELLO,
    "a request numbered 0": HELLO + frames.encode(frames.Stats(rid=0)),
    "a frame too long": HELLO + struct.pack(">I", frames.MAX_FRAME + 1),
    "no MessagePack": HELLO + struct.pack(">I", 1) + b"\xc1",
    "HTTP": b"GET /v1/models HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", INTRUSIONS.values(), ids=INTRUSIONS.keys())
async def test_a_peer_that_breaks_the_rules_is_told_so_and_cut_alone(engine, other, data):
    good = asyncio.create_task(answer(other, (1, 2, 3), 8))
    async with raw(engine) as (reader, writer):
        writer.write(data)
        received = list(frames.from_engine_buffer().feed(await asyncio.wait_for(reader.read(), 10)))
    assert isinstance(received[-1], frames.Failed), received
    assert (received[-1].rid, received[-1].kind) == (0, "bad_request")
    assert len((await good)[0]) == 8


async def test_half_a_frame_and_silence_hold_up_nobody(engine, other):
    async with raw(engine) as (_reader, writer):
        writer.write(HELLO + struct.pack(">I", 1000) + b"half")
        assert len((await answer(other, (1, 2, 3), 4))[0]) == 4


async def test_a_peer_that_stops_reading_is_cut_and_no_other_waits(engine, other):
    good = asyncio.create_task(answer(other, (1, 2, 3), 8))
    async with raw(engine) as (_reader, writer):
        writer.transport.pause_reading()
        writer.write(HELLO)
        with pytest.raises(ConnectionError):
            await ask_for_ever(writer)
    assert len((await good)[0]) == 8
    await until_idle(other)


async def ask_for_ever(writer):
    async with asyncio.timeout(60):
        while True:
            writer.write(frames.encode(frames.Stats(rid=1)) * 1000)
            await writer.drain()


async def test_cores_can_be_taken_and_given_back(client):
    for n in (0, 1, 100_000, 2):
        client.threads(n)
    assert len((await answer(client, (1, 2), 2))[0]) == 2


async def test_a_cache_too_small_for_all_of_them_fails_nobody(chat_model, folder):
    path = folder / "small.sock"
    async with running_engine(spec_of(chat_model, n_ctx=256), path):
        client = EngineClient(path)
        await client.connect(60)
        params = Params(temperature=0.0, ignore_eos=True)
        results = await asyncio.gather(
            *(answer(client, tuple(range(n, n + 50)), 60, params=params, tenant=f"t{n % 2}") for n in (1, 2, 3))
        )
        assert [(len(made), final.reason) for made, _, final in results] == [(60, "length")] * 3
        assert (await client.stats()).kv_used == 0
        await client.close()


async def test_sigterm_finishes_what_runs_and_accepts_nothing_more(chat_model, folder):
    path = folder / "drain.sock"
    async with running_engine(spec_of(chat_model), path) as child:
        client = EngineClient(path)
        await client.connect(60)
        params = Params(temperature=0.0, ignore_eos=True)
        generation = client.submit(job=ids.new_id(), tenant="acme", tokens=(1, 2), params=params, max_tokens=60)
        items = aiter(generation)
        made = list((await anext(items)).ids)
        child.terminate()
        await until(lambda _stats: client.retiring, client)
        with pytest.raises(EngineError) as refusal:
            await client.prepare(tenant="acme", text="a")
        assert refusal.value.kind is ErrorKind.LOADING
        made += [token async for item in items for token in item.ids]
        assert len(made) == 60
        generation.acknowledge()
        assert await asyncio.wait_for(child.wait(), 20) == 0
        await client.close()


async def test_a_drained_engine_ends_when_its_peers_have_left(chat_model, folder):
    path = folder / "idle.sock"
    async with running_engine(spec_of(chat_model), path) as child:
        client = EngineClient(path)
        await client.connect(60)
        client.drain()
        await until(lambda _stats: client.retiring, client)
        await client.close()
        assert await asyncio.wait_for(child.wait(), 20) == 0


def missing(_model, file):
    file.unlink(missing_ok=True)


def empty(_model, file):
    file.write_bytes(b"")


def text(_model, file):
    file.write_text("This is not a model.\n" * 100)


def truncated(model, file):
    with model.open("rb") as source:
        file.write_bytes(source.read(8 << 20))


def damaged_header(model, file):
    shutil.copyfile(model, file)
    with file.open("r+b") as target:
        target.seek(8)
        target.write(b"\xff" * 8)


BROKEN_FILES = {
    "missing": (missing, ErrorKind.MODEL_NOT_FOUND),
    "empty": (empty, ErrorKind.TAMPERED),
    "text": (text, ErrorKind.TAMPERED),
    "truncated": (truncated, ErrorKind.TAMPERED),
    "damaged header": (damaged_header, ErrorKind.TAMPERED),
}


@pytest.mark.parametrize(("break_file", "kind"), BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
async def test_a_model_file_that_cannot_be_loaded_gives_its_named_error_to_every_peer(
    chat_model, folder, tmp_path, break_file, kind
):
    file, path = tmp_path / "model.gguf", folder / "broken.sock"
    path.unlink(missing_ok=True)
    break_file(chat_model, file)
    async with running_engine(spec_of(file), path) as child:
        for _ in range(2):
            with pytest.raises(EngineError) as refusal:
                await EngineClient(path).connect(60)
            assert refusal.value.kind is kind
            assert "model.gguf" in refusal.value.what
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 20) == 0


async def test_what_was_written_for_a_peer_is_read_at_the_end_though_another_peer_left_before(folder, tmp_path):
    path, asked = folder / "end.sock", 20_000
    async with running_engine(spec_of(tmp_path / "missing.gguf"), path) as child:
        async with raw((path, child)) as (reader, writer):
            writer.write(INTRUSIONS["HTTP"])
            await reader.read()  # to the end: it has been cut, and was the last peer
        async with raw((path, child)) as (reader, writer):
            writer.transport.pause_reading()
            writer.write(HELLO + frames.encode(frames.Stats(rid=1)) * asked)
            await writer.drain()
            for _ in range(3):  # each is answered after what was asked before it
                with pytest.raises(EngineError):
                    await EngineClient(path).connect(60)
            child.terminate()
            await asyncio.sleep(0.1)  # it is ending, and waits for its peers to read
            writer.transport.resume_reading()
            buffer, heard = frames.from_engine_buffer(), 0
            while data := await asyncio.wait_for(reader.read(1 << 20), 10):
                heard += sum(isinstance(frame, frames.Failed) and frame.rid == 1 for frame in buffer.feed(data))
        assert heard == asked


async def test_a_mode_without_an_engine_is_named(chat_model, folder):
    path = folder / "embed.sock"
    async with running_engine(spec_of(chat_model, mode="embed"), path):
        with pytest.raises(EngineError) as refusal:
            await EngineClient(path).connect(60)
        assert refusal.value.kind is ErrorKind.NOT_SUPPORTED


async def test_a_model_that_does_not_fit_is_refused_with_both_numbers(chat_model, folder):
    path = folder / "large.sock"
    async with running_engine(spec_of(chat_model, n_ctx=1 << 30), path):
        with pytest.raises(EngineError) as refusal:
            await EngineClient(path).connect(60)
        assert refusal.value.kind is ErrorKind.OVERLOADED
        assert "does not fit into memory" in refusal.value.what
