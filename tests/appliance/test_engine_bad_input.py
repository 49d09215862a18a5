"""Bad input, line by line, to one real engine: that request alone fails, with a named error, and nothing stays of it.

Elsewhere, on engines of their own: wrong prompts, submits and frames, and models that cannot be loaded
(test_engine_process), peers that vanish and cancels by the thousand (test_engine_faults), grammars that nobody
prepared (test_engine_sampling_model), an engine that is killed or hangs in a step (test_engine_crash).
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.engine_host import answer, command_for, running_engine, spec_of
from bundles import small_llama
from plugsky.core import frames, ids
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Message, Params
from plugsky.core.listeners import bind_unix
from plugsky.core.processes import Child
from plugsky.engine.clients.client import EngineClient, EngineError

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MIB = 1 << 20
GROWTH = 16 * MIB
"""What an allocator may keep; each attack here would take many times as much if it stayed."""
ASKED = (Message("user", "What is the capital of France?"),)
HELLO = frames.encode(frames.ClientHello())
ENDLESS = Params(temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(chat_model, folder):
    """A peer of the engine that all of it is sent to; at the end it must not have grown."""
    async with running_engine(spec_of(chat_model), folder / "e.sock"):
        peer = EngineClient(folder / "e.sock")
        await peer.connect(60)
        await answer(peer, tuple(range(1, 600)), 4)
        await answer(peer, (1, 2, 3), 4, params=Params(grammar=f'root ::= "{SAID}"'))
        # Everything that is taken once has been: the cache's pages, the vocabulary as grammars read it.
        before = (await peer.stats()).rss_bytes
        yield peer
        idle = await until_idle(peer)
        assert (idle.kv_used, idle.rss_bytes < before + 2 * GROWTH) == (0, True)
        await peer.close()


@pytest_asyncio.fixture(loop_scope="module")
async def neighbour(client):
    """A request that runs meanwhile, and must not notice."""
    running = asyncio.create_task(answer(client, (1, 2, 3), 6, params=ENDLESS, tenant="neighbour"))
    yield running
    made, _, final = await running
    assert (len(made), final.reason) == (6, "length")


async def until(client, holds):
    """Ask the engine how it stands until ``holds`` of the answer."""
    async with asyncio.timeout(60):
        while True:
            stats = await client.stats()
            if holds(stats):
                return stats
            await asyncio.sleep(0.01)


async def until_idle(client):
    return await until(client, lambda stats: not stats.running and not stats.waiting)


def pattern(text):
    return {"json_schema": json.dumps({"type": "string", "pattern": text})}


def nested(depth):
    return '{"type":"array","items":' * depth + "{}" + "}" * depth


REFUSED_PROMPTS = {
    "a grammar that calls itself first": ({"grammar": "root ::= root"}, "grammar"),
    "a grammar that recurses without end": ({"grammar": 'root ::= "a" root'}, "grammar"),
    "a grammar that is empty": ({"grammar": "\n"}, "grammar"),
    "a grammar that admits nothing but the empty text": ({"grammar": 'root ::= ""'}, "grammar"),
    "a grammar without a root": ({"grammar": 'other ::= "a"'}, "grammar"),
    "a grammar that is no grammar": ({"grammar": "}{ \x00"}, "grammar"),
    "a grammar that explodes": ({"grammar": 'root ::= ((("a"{0,999}){0,999}){0,999}){0,999}'}, "grammar"),
    "a grammar of a million characters": ({"grammar": 'root ::= "' + "a" * 1_000_000 + '"'}, "grammar"),
    "a grammar of parentheses": ({"grammar": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000}, "grammar"),
    "a schema with a remote reference": ({"json_schema": '{"$ref":"https://example.org/s"}'}, "json_schema"),
    "a schema with a reference to a file": ({"json_schema": '{"$ref":"file:///etc/passwd"}'}, "json_schema"),
    "a schema that refers to itself only": ({"json_schema": '{"$ref":"#"}'}, "json_schema"),
    "a schema that is nested too deep": ({"json_schema": nested(500)}, "json_schema"),
    "a schema deeper than Python's stack": ({"json_schema": nested(100_000)}, "json_schema"),
    "a schema that is no JSON": ({"json_schema": "{'a': 1}"}, "json_schema"),
    "a schema with an unknown keyword": ({"json_schema": '{"unevaluatedItems":false}'}, "json_schema"),
    "a pattern that counts too far": (pattern("^(x{1,9999}){1,9999}$"), "json_schema"),
    "a pattern that repeats what may be empty": (pattern("^(a|aa|a?)+b$"), "json_schema"),
    "a pattern that looks back": (pattern(r"^(a+)\1$"), "json_schema"),
    "a pattern that looks ahead": (pattern("^(?=a+b)a+$"), "json_schema"),
    "a pattern of parentheses": (pattern("^" + "(" * 20_000 + "a" + ")" * 20_000 + "$"), "json_schema"),
    "a pattern that is none": (pattern("^[z-a]$"), "json_schema"),
}


@pytest.mark.parametrize(("fields", "param"), REFUSED_PROMPTS.values(), ids=REFUSED_PROMPTS.keys())
async def test_what_cannot_be_enforced_is_refused_by_name(client, neighbour, fields, param):
    with pytest.raises(EngineError) as refusal:
        await asyncio.wait_for(client.prepare(tenant="acme", messages=ASKED, **fields), 20)
    assert refusal.value.kind in (ErrorKind.SCHEMA_REFUSED, ErrorKind.BAD_REQUEST)
    assert refusal.value.param == param


BOMBS = ["^(a+)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "^(.*a){8}$"]


@pytest.mark.parametrize("text", BOMBS)
async def test_a_pattern_that_makes_others_backtrack_for_ever_is_as_good_as_any(client, neighbour, text):
    prepared = await client.prepare(tenant="acme", text="Say: ", **pattern(text))
    params = Params(temperature=0.0, grammar=prepared.grammar)
    made, said, _ = await answer(client, prepared.tokens, 6, params=params)
    assert made
    assert said.startswith('"')


WRONG_STOPS = {
    "an empty one": ("",),
    "an empty one among others": ("a", ""),
    "too many": ("a",) * 1000,
    "one that is longer than any": ("a" * 1_000_000,),
}


@pytest.mark.parametrize("stop", WRONG_STOPS.values(), ids=WRONG_STOPS.keys())
async def test_stop_strings_that_make_no_sense_are_refused(client, neighbour, stop):
    with pytest.raises(EngineError) as refusal:
        await answer(client, (1, 2), params=Params(temperature=0.0, stop=stop))
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.BAD_REQUEST, "stop")


SAID = "Grüße, 世界 👋! The sea is wide."
STOPS = {
    "its first character": ("G",),
    "one across tokens": ("e, 世界 👋! T",),
    "one that begins twice before it comes": ("rüß\x00", "rüße"),
    "all that is said": (SAID,),
    "one within another": ("sea is wide", "a i"),
    "what is never said": ("\x00", "世世", "👩‍👩‍👧", "\n\n\n\n", "\ufffd"),
    "more than is said": (SAID + "!",),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
async def test_stop_strings_of_every_shape_stop_where_they_are_first_complete(client, stop):
    params = Params(temperature=0.0, grammar=f'root ::= "{SAID}"', stop=stop)
    _, said, final = await answer(client, (1, 2, 3), 60, params=params)
    ends = [(SAID.find(one) + len(one), SAID.find(one)) for one in stop if one in SAID]
    assert said == (SAID[: min(ends)[1]] if ends else SAID)
    assert final.reason == "stop"


async def test_text_that_is_no_utf8_ends_the_connection_and_no_other(client, neighbour, folder):
    frame = frames.encode(frames.Prepare(rid=1, tenant="acme", text="QQQQ")).replace(b"QQQQ", b"\xff\xc0\x80\xed")
    reader, writer = await asyncio.open_unix_connection(folder / "e.sock")
    writer.write(HELLO + frame)
    received = list(frames.from_engine_buffer().feed(await asyncio.wait_for(reader.read(), 10)))
    assert (received[-1].rid, received[-1].kind) == (0, "bad_request")
    writer.close()


@pytest.mark.parametrize("text", ["half a pair: \ud83d", "\udcff\udcfe"])
async def test_half_a_surrogate_pair_is_refused_before_it_is_sent(client, neighbour, text):
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="acme", text=text)
    assert refusal.value.kind is ErrorKind.BAD_REQUEST


async def test_a_peer_that_stops_reading_is_cut_its_jobs_are_cancelled_and_the_engine_has_not_grown(client, folder):
    await until_idle(client)
    before = (await client.stats()).rss_bytes
    reader, writer = await asyncio.open_unix_connection(folder / "e.sock", limit=1)
    writer.write(HELLO)
    await reader.read(1)
    writer.transport.pause_reading()
    jobs = [
        frames.Submit(rid=n, job=ids.new_id(), tenant="deaf", tokens=(1, n), params=ENDLESS, max_tokens=1500)
        for n in range(1, 4)
    ]
    writer.write(b"".join(map(frames.encode, jobs)))
    await until(client, lambda stats: stats.running == 3)
    with pytest.raises(ConnectionError):
        await ask_for_ever(writer)
    after = await until_idle(client)
    assert after.kv_used == 0
    assert after.rss_bytes < before + GROWTH


async def ask_for_ever(writer):
    async with asyncio.timeout(60):
        while True:
            writer.write(frames.encode(frames.Stats(rid=9)) * 1000)
            await writer.drain()


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"


async def test_a_template_that_loops_is_cut_off_and_the_engine_serves_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(small_llama, "HELLO", "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}ok")
    file = tmp_path / "loop.gguf"
    file.write_bytes(small_llama.small_llama.__wrapped__())
    async with running_engine(spec_of(file, n_ctx=512), folder / "loop.sock"):
        client = EngineClient(folder / "loop.sock")
        await client.connect(60)
        looping = asyncio.create_task(client.prepare(tenant="acme", messages=(Message("user", "loop"),)))
        assert len((await answer(client, (1, 2, 3), 4, params=ENDLESS))[0]) == 4
        assert not looping.done(), "nobody else waited"
        with pytest.raises(EngineError) as refusal:
            await looping
        assert refusal.value.kind is ErrorKind.TIMEOUT
        assert (await client.prepare(tenant="acme", messages=ASKED)).tokens
        await client.close()


MODELS = {
    "of an architecture that nobody knows": lambda data: data.replace(b"llama", b"lambs"),
    "with the tensors of another": lambda data: data.replace(b"blk.0.ffn_up", b"blk.9.ffn_up"),
    "with a layer too many": lambda data: data.replace(
        b"llama.block_count\x04\0\0\0\x01", b"llama.block_count\x04\0\0\0\x02"
    ),
    "cut off in its weights": lambda data: data[: len(data) // 2],
    "cut off in its header": lambda data: data[:300],
}


@pytest.mark.parametrize("spoil", MODELS.values(), ids=MODELS.keys())
async def test_a_model_is_refused(folder, tmp_path, spoil):
    file, path = tmp_path / "model.gguf", folder / "m.sock"
    path.unlink(missing_ok=True)
    file.write_bytes(spoil(small_llama.small_llama()))
    async with running_engine(spec_of(file, n_ctx=512), path) as child:
        with pytest.raises(EngineError) as refusal:
            await EngineClient(path).connect(60)
        assert refusal.value.kind in (ErrorKind.TAMPERED, ErrorKind.NOT_SUPPORTED, ErrorKind.INTERNAL)
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 20) == 0


async def test_memory_that_the_kernel_refuses_is_named_and_ends_nothing(chat_model, folder):
    """The estimate knows what is free, not what this process may have (setrlimit(2))."""
    path = folder / "limit.sock"
    listener = bind_unix(path)
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (400 << 20,) * 2); "
    limited += "os.execv(sys.argv[1], sys.argv[1:])"
    command = (sys.executable, "-c", limited, *command_for(spec_of(chat_model, n_ctx=1 << 15)))
    child = Child.spawn(command, listener, path.with_suffix(".log"))
    listener.close()
    try:
        with pytest.raises(EngineError) as refusal:
            await EngineClient(path).connect(60)
        assert refusal.value.kind in (ErrorKind.OVERLOADED, ErrorKind.INTERNAL)
        assert "llama.cpp" in refusal.value.what
    finally:
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 20) == 0
