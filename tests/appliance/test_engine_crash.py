"""The real engine dies under its requests: every stream goes on without a gap, and the one to blame fails alone."""

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import until
from appliance.engine_host import command_for, spec_of
from plugsky.core import ids, processes
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Params
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.server.deps import ServedModel
from plugsky.server.engines import EnginePool

pytestmark = pytest.mark.integration

GREEDY = Params(temperature=0.0, ignore_eos=True)
POISON, SLEEP = 4242, 4243
DIES_OF_POISON = f"""
import os, signal
import time
from plugsky.core import env
from plugsky.engine.serving.process import SPINS
env.set_default(env.GOMP_SPINCOUNT, SPINS)
from plugsky.engine.llama import native
from plugsky.engine.serving import watchdog
decode = native.Context.decode
def decode_or_die(self, chunks):
    if any({POISON} in tuple(chunk.tokens) for chunk in chunks):
        os.kill(os.getpid(), signal.SIGKILL)
    if any({SLEEP} in tuple(chunk.tokens) for chunk in chunks):
        watchdog.FLOOR_S, watchdog.FACTOR, watchdog.UNMEASURED_S = 0.5, 0.0, 0.5
        time.sleep(600)
    return decode(self, chunks)
def entry():
    native.Context.decode = decode_or_die
"""


@pytest.fixture
async def site(chat_model, monkeypatch):
    """A supervised engine that dies of a certain token, and the gateway's pool: (supervisor, line, its log)."""
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.05)
    spec = spec_of(chat_model, n_ctx=1024)
    program, flag, code, *words = command_for(spec)
    command = (program, flag, code.replace("sys.exit", DIES_OF_POISON + "entry()\nsys.exit"), *words)
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        path = Path(name) / "e.sock"
        supervisor = EngineSupervisor(spec, path, command=command, log=path.with_suffix(".log"))
        await supervisor.start()
        await supervisor.settled()
        pool = EnginePool(lambda _model: path, load_wait_s=30.0, max_waiting=64)
        line = await pool.engine(ServedModel(spec.model_id, spec.digest, 1024))
        yield supervisor, line
        await pool.close()
        await supervisor.stop()


def ask(line, tokens, max_tokens):
    return line.submit(job=ids.new_id(), tenant="acme", tokens=tokens, params=GREEDY, max_tokens=max_tokens)


async def read(running):
    """Ids, text, finals and, at the end, an acknowledgement; or the failure."""
    made, text, finals = [], "", []
    try:
        async for item in running:
            made += item.ids
            text += item.text
            finals += [item.final] if item.final else []
    except PlugskyError as error:
        return made, text, error
    running.acknowledge()
    (final,) = finals
    return made, text, final


async def test_streams_go_on_after_the_engine_was_killed_under_them(site):
    supervisor, line = site
    prompts = [tuple(range(n, n + 12)) for n in (10, 30, 50, 70)]
    before = [await read(ask(line, prompt, 16)) for prompt in prompts]
    running = [ask(line, prompt, 16) for prompt in prompts]
    reading = [asyncio.create_task(read(one)) for one in running]
    await until(lambda: min(one.received for one in running) >= 4)
    first = line.hello.instance
    os.kill(supervisor.life.pid, signal.SIGKILL)
    ends = await asyncio.gather(*reading)
    assert line.hello.instance != first
    for (made, text, final), (_, _, whole) in zip(ends, before, strict=True):
        assert (len(made), final.reason) == (16, "length")
        assert final.usage.completion_tokens == whole.usage.completion_tokens == 16
        assert final.usage.prompt_tokens == whole.usage.prompt_tokens == 12
        assert text
    same = sum(made == alone for (made, _, _), (alone, _, _) in zip(ends, before, strict=True))
    assert same >= 2, "greedy text differs with the batch's shape in rounding only"


STOP = "END OF THE ANSWER: WHAT FOLLOWS IS HEARD BY NOBODY, HOWEVER LONG IT MAY GO ON, AND WHATEVER IT MAY TELL"
LITERAL = Params(
    temperature=0.0, grammar=f'root ::= "alpha beta gamma. {STOP}, and more"', stop=(STOP,), repeat_penalty=1.1
)


async def test_an_engine_killed_within_a_stop_string_of_a_grammar_loses_and_doubles_nothing(site):
    supervisor, line = site
    running = line.submit(job=ids.new_id(), tenant="acme", tokens=(1, 2, 3), params=LITERAL, max_tokens=120)
    reading = asyncio.create_task(read(running))
    await until(lambda: running.received >= 12)
    first = line.hello.instance
    os.kill(supervisor.life.pid, signal.SIGKILL)
    made, text, final = await reading
    assert line.hello.instance != first, "it was not over yet"
    assert (text, final.reason, final.usage.completion_tokens) == ("alpha beta gamma. ", "stop", len(made))


async def test_a_prompt_whose_scoring_was_cut_is_scored_to_its_end_and_told_once(site):
    supervisor, line = site
    prompt = tuple(range(1000, 1900))
    running = line.submit(
        job=ids.new_id(), tenant="acme", tokens=prompt, params=Params(prompt_logprobs=0), max_tokens=0
    )
    first = line.hello.instance
    known, final = [], None
    async for item in running:
        if not known:
            os.kill(supervisor.life.pid, signal.SIGKILL)
        known += item.prompt_logprobs
        final = item.final
    assert line.hello.instance != first, "it was not over yet"
    assert (len(known), final.reason) == (len(prompt) - 1, "length")


async def test_a_request_that_kills_the_engine_fails_alone_and_is_kept_out(site):
    supervisor, line = site
    running = [ask(line, tuple(range(n, n + 12)), 30) for n in (10, 30, 50)]
    neighbours = [asyncio.create_task(read(one)) for one in running]
    await until(lambda: min(one.received for one in running) >= 3)
    poison = (1, 2, POISON, 3)
    _, _, error = await read(ask(line, poison, 8))
    assert (error.kind, "ended the model's engine twice" in error.what) == (ErrorKind.INTERNAL, True)
    for made, _, final in await asyncio.gather(*neighbours):
        assert (len(made), final.reason, final.usage.completion_tokens) == (30, "length", 30)
    assert supervisor.life.restarts == 3
    with pytest.raises(PlugskyError, match="ended the model's engine twice"):
        ask(line, poison, 8)
    assert supervisor.life.restarts == 3


async def test_an_engine_whose_step_hangs_ends_by_itself_and_says_why(site):
    supervisor, line = site
    await read(ask(line, (1, 2, 3), 4))
    _, _, error = await read(ask(line, (1, 2, SLEEP, 3), 8))
    assert (error.kind, "ended the model's engine twice" in error.what) == (ErrorKind.INTERNAL, True)
    assert supervisor.life.problem == "the engine ended itself because a step did not end"
    made, _, _ = await read(ask(line, (1, 2, 3), 4))
    assert len(made) == 4
