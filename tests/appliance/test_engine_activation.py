"""``plugsky engine run`` as systemd starts it: the socket is systemd's, and systemd hears how the engine fares."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from appliance.engine_host import answer, collect, digest_of
from bundles.small_llama import small_llama
from plugsky.core.frames import Params
from plugsky.engine.clients.client import EngineClient, EngineError

pytestmark = pytest.mark.integration
ENDLESS = Params(temperature=0.0, ignore_eos=True)
HAND_OVER = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&"$LISTENER"'
"""What systemd does between fork and exec: the socket becomes descriptor 3, and LISTEN_PID the process itself."""


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        (Path(name) / "m.gguf").write_bytes(small_llama())
        yield Path(name)


@pytest.fixture
def systemd(place):
    """The ends that systemd holds: the listener of the socket unit, and where NOTIFY_SOCKET leads."""
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        listener.bind(str(place / "e.sock"))
        listener.listen()
        notified.bind(str(place / "n"))
        notified.settimeout(60)
        yield listener, notified


def command(place, *options):
    file = place / "m.gguf"
    words = ("--model-id", "m", "--model-file", file, "--digest", digest_of(file), "--ctx", 512, *options)
    return (sys.executable, "-m", "plugsky", "engine", "run", *map(str, words))


@contextlib.contextmanager
def started(place, listener, *options):
    environment = {**os.environ, "NOTIFY_SOCKET": str(place / "n"), "LISTENER": str(listener.fileno())}
    words = ("bash", "-c", HAND_OVER, "bash", *command(place, *options))
    engine = subprocess.Popen(words, env=environment, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
    try:
        yield engine
    finally:
        engine.kill()
        engine.wait()


def told(notified, what):
    """Everything that systemd hears up to the first message that begins with ``what``, as lines."""
    lines = []
    while not any(line.startswith(what) for line in lines):
        lines += notified.recv(4096).decode().split("\n")
    return lines


async def say(place):
    client = EngineClient(place / "e.sock")
    await client.connect(60)
    made, _, _ = await answer(client, (1, 2, 3), 2)
    await client.close()
    return len(made)


async def test_systemd_hears_that_it_loads_that_it_is_ready_that_it_lives_and_that_it_stops(place, systemd):
    listener, notified = systemd
    with started(place, listener) as engine:
        loading = await asyncio.to_thread(told, notified, "READY=1")
        assert any(line.startswith("STATUS=loading, ") for line in loading)
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in loading)
        assert loading[-3:] == ["READY=1", "STATUS=serving", f"MAINPID={engine.pid}"]
        assert await say(place) == 2
        assert "WATCHDOG=1" in await asyncio.to_thread(told, notified, "WATCHDOG=1")
        engine.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(told, notified, "STOPPING=1"))[-1] == "STOPPING=1"
        assert await asyncio.to_thread(engine.wait, 30) == 0


async def test_a_model_that_cannot_be_loaded_is_said_to_systemd_and_no_failure_of_the_unit(place, systemd):
    listener, notified = systemd
    (place / "m.gguf").write_bytes(b"this is no model" * 100)
    with started(place, listener) as engine:
        assert "STATUS=refusing: " in "".join(await asyncio.to_thread(told, notified, "STATUS=refusing"))
        with pytest.raises(EngineError, match=r"m\.gguf"):
            await say(place)
        engine.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(engine.wait, 30) == 0


async def test_who_connects_after_an_idle_engine_has_ended_waits_in_the_socket_for_the_next_one(place, systemd):
    listener, notified = systemd
    with started(place, listener, "--idle-exit", 1) as engine:
        await asyncio.to_thread(told, notified, "READY=1")
        assert await say(place) == 2
        assert await asyncio.to_thread(engine.wait, 30) == 0
    assert (await asyncio.to_thread(told, notified, "STOPPING=1"))[-1] == "STOPPING=1"
    waiting = asyncio.create_task(say(place))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    with started(place, listener, "--idle-exit", 1):
        assert await waiting == 2


async def test_an_idle_engine_takes_nothing_more_and_ends_when_its_last_peer_has_left(place, systemd):
    listener, notified = systemd
    with started(place, listener, "--idle-exit", 1) as engine:
        await asyncio.to_thread(told, notified, "READY=1")
        client = EngineClient(place / "e.sock")
        await client.connect(60)
        retired = asyncio.Event()
        client.on_change = retired.set
        await asyncio.wait_for(retired.wait(), 30)
        assert client.retiring
        with pytest.raises(EngineError):
            await client.prepare(tenant="t", text="a")
        assert engine.poll() is None, "it ends when its peers have left"
        await client.close()
        assert await asyncio.to_thread(engine.wait, 30) == 0
    assert "STOPPING=1" in await asyncio.to_thread(told, notified, "STOPPING=1")


async def test_systemd_is_asked_for_more_time_while_a_drained_engine_finishes_what_runs(place, systemd, chat_model):
    listener, notified = systemd
    (place / "m.gguf").unlink()
    (place / "m.gguf").symlink_to(chat_model)
    with started(place, listener) as engine:
        await asyncio.to_thread(told, notified, "READY=1")
        client = EngineClient(place / "e.sock")
        await client.connect(60)
        running = client.submit(job="j", tenant="t", tokens=(1, 2, 3), params=ENDLESS, max_tokens=500)
        await running.accepted()
        client.drain()
        await asyncio.to_thread(told, notified, "STOPPING=1")
        assert (await asyncio.to_thread(told, notified, "EXTEND_TIMEOUT_USEC="))[-1] == "EXTEND_TIMEOUT_USEC=30000000"
        running.cancel()
        await collect(running)
        await client.close()
        assert await asyncio.to_thread(engine.wait, 30) == 0


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd's own tool is not here")
def test_the_tool_that_stands_in_for_systemd_starts_it(place):
    words = ("systemd-socket-activate", "-l", str(place / "e.sock"), *command(place))
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as engine:
        while not (place / "e.sock").exists() and engine.poll() is None:
            time.sleep(0.01)
        assert asyncio.run(say(place)) == 2
        engine.terminate()
        assert engine.wait(30) == 0
