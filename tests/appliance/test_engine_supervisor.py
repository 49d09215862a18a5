"""The supervisor: a dead engine comes back, one that cannot load is not restarted, and none outlives its parent."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine_host import answer, collect, command_for, digest_of, spec_of
from bundles.small_llama import small_llama
from plugsky.core import processes
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Params
from plugsky.core.processes import how_it_ended
from plugsky.engine.clients.client import EngineClient, EngineError
from plugsky.engine.life.supervisor import EngineSupervisor, engine_command
from plugsky.engine.spec import AdapterSpec, ProjectorSpec

pytestmark = pytest.mark.integration


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        yield Path(name) / "engines" / "e.sock"


@pytest.fixture
def supervise(path):
    """Supervisors that are stopped at the end; ``supervise(spec, *command)``."""
    made = []

    def make(spec, *command):
        made.append(EngineSupervisor(spec, path, command=command or command_for(spec), log=path.parent / "engine.log"))
        path.parent.mkdir(exist_ok=True)
        return made[-1]

    yield make
    assert all(supervisor._child is None for supervisor in made), "a test left an engine running"


async def test_an_engine_is_started_serves_and_is_stopped(chat_model, supervise, path):
    supervisor = supervise(spec_of(chat_model, n_ctx=512))
    await supervisor.start()
    assert (await supervisor.settled()).state == "ready"
    client = EngineClient(path)
    await client.connect(10)
    made, _, _ = await answer(client, (1, 2, 3), 2)
    status = await supervisor.status()
    assert len(made) == 2
    assert (status.state, status.threads, status.kv_cells, status.restarts) == ("ready", 2, 512, 0)
    assert status.rss_bytes > 100_000_000
    assert path.stat().st_mode & 0o777 == 0o660
    await client.close()
    await supervisor.stop()
    assert (await supervisor.status()).state == "absent"
    assert not path.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(status.pid, 0)


async def test_a_killed_engine_comes_back_and_its_peers_are_told_and_can_wait(chat_model, supervise, path):
    supervisor = supervise(spec_of(chat_model, n_ctx=512))
    await supervisor.start()
    await supervisor.settled()
    client = EngineClient(path)
    await client.connect(10)
    first = client.hello.instance
    asking = asyncio.create_task(answer(client, (1, 2, 3), 400))
    await asyncio.sleep(0.1)
    os.kill(supervisor.life.pid, signal.SIGKILL)
    with pytest.raises(EngineError) as lost:
        await asking
    assert lost.value.kind is ErrorKind.ENGINE_LOST
    await client.connect(30)
    assert client.hello.instance != first
    assert len((await answer(client, (1, 2, 3), 2))[0]) == 2
    status = await supervisor.status()
    assert (status.state, status.restarts, status.problem) == ("suspect", 1, "the engine was killed by SIGKILL")
    await client.close()
    await supervisor.stop()


async def test_a_file_that_is_no_model_is_named_and_nothing_is_restarted(supervise, path, tmp_path, chat_model):
    file = tmp_path / "model.gguf"
    file.write_text("not a model")
    supervisor = supervise(replace(spec_of(file, n_ctx=512), digest=digest_of(chat_model)))
    await supervisor.start()
    life = await supervisor.settled()
    assert (life.state, life.restarts) == ("absent", 0)
    assert "model.gguf" in life.problem
    with pytest.raises(EngineError) as refusal:
        await EngineClient(path).connect(10)
    assert refusal.value.kind is ErrorKind.TAMPERED
    file.unlink()
    file.symlink_to(chat_model)
    supervisor.admit()
    while not supervisor.life.serves:
        await supervisor._next_change()
    assert (await supervisor.status()).problem == ""
    await supervisor.stop()


async def test_an_engine_that_keeps_dying_is_given_up_and_peers_are_told_why(supervise, path, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.01)
    supervisor = supervise(spec_of(tmp_path / "any"), sys.executable, "-c", "import os; os.abort()")
    await supervisor.start()
    assert (await supervisor.settled()).given_up
    with pytest.raises(EngineError) as refusal:
        await EngineClient(path).connect(10)
    assert refusal.value.kind is ErrorKind.ENGINE_LOST
    assert refusal.value.what == "the engine was killed by SIGABRT while loading, 3 times in a row"
    supervisor.admit()
    assert supervisor.life.state == "admitted"
    await supervisor.stop()


async def test_one_crash_while_loading_is_no_verdict(supervise, path, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.01)
    spec = spec_of(tmp_path / "model.gguf", n_ctx=512)
    once = 'test -e "$0" && exec "$@"; touch "$0"; kill -ABRT $$'
    supervisor = supervise(spec, "/bin/sh", "-c", once, str(tmp_path / "crashed"), *command_for(spec))
    await supervisor.start()
    life = await supervisor.settled()
    assert (life.state, life.restarts) == ("absent", 1)
    assert "model.gguf" in life.problem
    await supervisor.stop()


async def test_an_engine_that_cannot_be_started_is_given_up_by_name(supervise, path, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.01)
    supervisor = supervise(spec_of(tmp_path / "any"), str(tmp_path / "missing"))
    await supervisor.start()
    assert (await supervisor.settled()).given_up
    with pytest.raises(EngineError, match="could not be started: No such file or directory"):
        await EngineClient(path).connect(10)
    await supervisor.stop()


async def test_a_child_that_cannot_be_watched_does_not_run(path, monkeypatch):
    started = []

    def out_of_descriptors(pid):
        started.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", out_of_descriptors)
    with socket.socket() as listener, pytest.raises(OSError, match="Too many"):
        processes.Child.spawn((sys.executable, "-c", "import time; time.sleep(600)"), listener)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


async def test_an_engine_that_ignores_sigterm_is_killed(supervise, path, tmp_path, monkeypatch):
    monkeypatch.setattr("plugsky.engine.life.supervisor.STOP_S", 0.1)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    supervisor = supervise(spec_of(tmp_path / "any"), sys.executable, "-c", code)
    await supervisor.start()
    log = path.parent / "engine.log"
    for _ in range(1000):
        if log.exists() and log.read_bytes():
            break
        await asyncio.sleep(0.01)
    await supervisor.stop()


HANGS = """
import signal, socket, sys, time
from plugsky.core import frames
signal.signal(signal.SIGTERM, signal.SIG_IGN)
peer, _ = socket.socket(fileno=3).accept()
peer.recv(4096)
peer.sendall(frames.encode(frames.EngineHello(frames.PROTOCOL, "i", "b", "ab", 512)))
if sys.argv[1] == "idle":
    peer.sendall(frames.encode(frames.Retiring()))
    while peer.recv(4096):
        pass
peer.close()
time.sleep(600)
"""
"""An engine that is stuck at its end."""


@pytest.mark.parametrize(("how", "state"), [("idle", "absent"), ("broken", "crashed")])
async def test_an_engine_that_hangs_at_its_exit_is_killed(supervise, tmp_path, monkeypatch, how, state):
    monkeypatch.setattr("plugsky.engine.life.supervisor.STOP_S", 0.1)
    monkeypatch.setattr("plugsky.engine.life.supervisor.SILENCE_S", 0.1)
    supervisor = supervise(spec_of(tmp_path / "any"), sys.executable, "-c", HANGS, how)
    await supervisor.start()
    while supervisor._child is None:
        await supervisor._next_change()
    pid = supervisor._child.pid
    while supervisor._child is not None:
        await supervisor._next_change()
    assert (supervisor.life.state, supervisor.life.pid) == (state, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await supervisor.stop()


async def test_a_drained_engine_may_finish_what_runs_and_is_killed_when_it_then_hangs(
    supervise, path, tmp_path, monkeypatch
):
    monkeypatch.setattr("plugsky.engine.life.supervisor.STOP_S", 0.02)
    (tmp_path / "m.gguf").write_bytes(small_llama())
    spec = spec_of(tmp_path / "m.gguf", n_ctx=1024)
    program, flag, code, *words = command_for(spec)
    hangs = "import atexit, time; atexit.register(time.sleep, 600)\n"
    supervisor = supervise(spec, program, flag, hangs + code, *words)
    await supervisor.start()
    await supervisor.settled()
    client = EngineClient(path)
    await client.connect(10)
    endless = Params(temperature=0.0, ignore_eos=True)
    running = client.submit(job="j", tenant="acme", tokens=(1, 2, 3), params=endless, max_tokens=250)
    await running.accepted()
    client.drain()
    made, _, _ = await collect(running)
    assert len(made) == 250
    await client.close()
    while supervisor._child is not None:
        await supervisor._next_change()
    assert supervisor.life.state == "absent"
    await supervisor.stop()


async def test_a_socket_in_use_is_a_conflict_and_a_dead_ones_file_is_replaced(supervise, path, tmp_path):
    path.parent.mkdir(exist_ok=True)
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path)
    supervisor = supervise(spec_of(tmp_path / "any"), sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(PlugskyError) as conflict:
        await supervisor.start()
    assert conflict.value.kind is ErrorKind.CONFLICT
    server.close()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await supervisor.start()
    await supervisor.stop()


async def test_an_engine_dies_with_its_supervisor(chat_model, path):
    path.parent.mkdir(exist_ok=True)
    code = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from appliance.engine_host import command_for, spec_of
from plugsky.engine.spec import AdapterSpec
from plugsky.engine.life.supervisor import EngineSupervisor
async def main():
    spec = spec_of(Path({str(chat_model)!r}), n_ctx=512)
    supervisor = EngineSupervisor(spec, Path({str(path)!r}), command=command_for(spec))
    await supervisor.start()
    await supervisor.settled()
    print(supervisor.life.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    pid = int(await parent.stdout.readline())
    pidfd = os.pidfd_open(pid)
    ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
    parent.kill()
    await parent.wait()
    await asyncio.wait_for(ended, 20)
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


def test_an_engine_whose_supervisor_died_before_it_looked_ends(tmp_path, path):
    path.parent.mkdir(exist_ok=True)
    code = f"""
import asyncio, os, signal, socket, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from appliance.engine_host import command_for, spec_of
from plugsky.core.processes import Child
async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    Child.spawn(command_for(spec_of(Path("any"))), listener)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    engine = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    engine.communicate(timeout=30)  # its output is the engine's too, and closed when both have ended
    assert engine.returncode == -signal.SIGKILL


def test_the_command_of_an_engine_names_everything_it_needs(tmp_path):
    words = engine_command(spec_of(tmp_path / "m.gguf"))
    assert words[1:5] == ("-m", "plugsky", "engine", "run")
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options["--model-file"] == str(tmp_path / "m.gguf")
    assert set(options) == {
        "--model-id",
        "--model-file",
        "--digest",
        "--mode",
        "--ctx",
        "--threads",
        "--idle-exit",
        "--batch",
        "--kv-type",
        "--gpu-layers",
        "--numa",
        "--taken",
        "--exit-with-parent",
    }
    assert options["--gpu-layers"] == "auto"


def test_the_command_of_an_engine_names_each_adapter(tmp_path):
    adapters = tuple(AdapterSpec(name, tmp_path / f"{name}.gguf", "ab" * 32) for name in ("one", "two"))
    words = engine_command(replace(spec_of(tmp_path / "m.gguf"), adapters=adapters))
    given = [words[n + 1] for n, word in enumerate(words) if word == "--adapter"]
    assert tuple(map(AdapterSpec.parse, given)) == adapters


def test_the_command_of_an_engine_names_its_projector(tmp_path):
    spec = replace(spec_of(tmp_path / "m.gguf"), projector=ProjectorSpec(tmp_path / "eye.gguf", "ab"))
    assert engine_command(spec)[-4:] == ("--projector", str(tmp_path / "eye.gguf"), "--projector-digest", "ab")


ENDINGS = {
    "an exit code": (3 << 8, "ended with exit code 3"),
    "a signal": (int(signal.SIGSEGV), "was killed by SIGSEGV"),
}


@pytest.mark.parametrize(("status", "words"), ENDINGS.values(), ids=ENDINGS.keys())
def test_how_a_process_ended_is_said_in_words(status, words):
    assert how_it_ended(status) == words


async def test_a_child_gets_one_listener_and_no_secrets(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", "secret")
    monkeypatch.setenv("LISTEN_PID", "1")
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        code = (
            "import os; print({name: os.environ.get(name) for name in "
            "('LISTEN_FDS', 'LISTEN_PID', 'PLUGSKY_PASSPHRASE')}, sorted(map(int, os.listdir('/proc/self/fd')))[:4])"
        )
        started = processes.Child.spawn((sys.executable, "-c", code), listener, tmp_path / "log")
        assert await started.wait() == 0
    said = (tmp_path / "log").read_text()
    assert "{'LISTEN_FDS': '1', 'LISTEN_PID': None, 'PLUGSKY_PASSPHRASE': None} [0, 1, 2, 3]" in said
    started.kill()
