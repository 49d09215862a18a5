"""The processes that are measured: the stub engine, our gateway on a site of its own, and the LiteLLM proxy."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert

from benchmarks.gateway import stub
from benchmarks.gateway.load import Target, streams
from plugsky.access.keys import Keys
from plugsky.core.clock import SystemClock, unix_us
from plugsky.core.ids import new_id
from plugsky.core.paths import SitePaths
from plugsky.state import ApiKey, Database, LedgerEntry, LedgerState, open_database

MODEL = "stub"
LITELLM = "1.100.4"
PLACE = Path(__file__).parents[3] / ".cache" / f"litellm-{LITELLM}"
START_S = 40.0
DESCRIPTORS = 4096
BATCH = 10_000
GATEWAY = """
import socket, sys
from pathlib import Path
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.server import gateway
root, run, fd = sys.argv[1:]
gateway.run(SitePaths.at(Path(root), Path(run)), socket.socket(fileno=int(fd)), EffectivePolicy())
"""
CONFIG = """
model_list:
  - model_name: stub
    litellm_params: {model: openai/stub, api_base: "http://127.0.0.1:%d/v1", api_key: none}
general_settings: {master_key: sk-bench}
litellm_settings: {telemetry: false, num_retries: 0}
"""


@dataclass(frozen=True)
class Served:
    """A target and the process behind it."""

    target: Target
    pid: int
    keys: tuple[str, ...] = ()

    def cpu_s(self) -> float:
        """Seconds of processor time used so far, in and for the process and its children (proc_pid_stat(5))."""
        return sum(_cpu_s(pid) for pid in family(self.pid))

    def rss(self) -> int:
        """Bytes of memory that it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:"))


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += family(int(child))
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def process(command: Sequence[str | Path], log: Path, pass_fds: tuple[int, ...] = ()) -> Iterator[int]:
    """A process that ends with the block; its id."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, stdin=subprocess.DEVNULL, pass_fds=pass_fds
        )
    try:
        yield running.pid
        if running.poll() is not None:
            raise RuntimeError(f"{command[0]} ended by itself: {log.read_text()[-2000:]}")
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def stub_engine(folder: Path, pace_ms: float) -> AsyncIterator[tuple[Served, Path]]:
    """The stub, asked directly, and its socket for frames."""
    path, port = folder / "engines" / f"{MODEL}.sock", free_port()
    command = [sys.executable, stub.__file__, path, str(port), str(pace_ms)]
    with process(command, folder / "stub.log") as pid:
        target = Target("the stub itself", port)
        await answers(target)
        yield Served(target, pid), path


@contextlib.asynccontextmanager
async def gateway(folder: Path, name: str, *, keys: int = 1, rows: int = 0, others: int = 0) -> AsyncIterator[Served]:
    """Our gateway before the stub in ``folder``, with authentication, limits, ledger and audit as on any site.

    Its database holds ``rows`` ledger entries, and ``others`` keys beside those of the clients.
    """
    paths = SitePaths.at(folder / name, folder / f"{name}-run")
    make_site(paths, MODEL, stub.DIGEST, 1 << 20)
    socket_of_engine = paths.engine_socket(MODEL)
    socket_of_engine.parent.mkdir(parents=True)
    socket_of_engine.symlink_to(folder / "engines" / socket_of_engine.name)
    database = open_database(paths.database)
    made = Keys.open(database, paths, SystemClock())
    texts = tuple(made.create(f"tenant-{number % 8}", f"k{number}").secret for number in range(keys))
    _fill(database, rows, others)
    database.close()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port, fd = listener.getsockname()[1], listener.fileno()
    command = [sys.executable, "-c", GATEWAY, paths.root, paths.run, str(fd)]
    with process(command, folder / f"{name}.log", pass_fds=(fd,)) as pid:
        listener.close()
        target = Target("Plugsky", port, texts[0])
        await answers(target)
        yield Served(target, pid, texts)


def make_site(paths: SitePaths, name: str, digest: str, context: int) -> None:
    """A site whose current generation has one model, of which there is the entry only."""
    model = paths.generations / "1" / "models" / name
    model.mkdir(parents=True)
    paths.current.symlink_to("generations/1")
    paths.state.mkdir()
    (model / "stub.gguf").write_bytes(b"GGUF")
    entry = {
        "schema": "plugsky.model/1", "id": name, "title": "Stub", "file": "stub.gguf", "sha256": digest,
        "size": 4, "mode": "generate", "context": context, "licence": "Apache-2.0", "languages": ["en"],
        "homepage": "", "origin": "", "architecture": "llama", "quantisation": "Q4_1", "parameters": 1,
    }  # fmt: skip
    (model / "model.json").write_text(json.dumps(entry))


def _fill(database: Database, rows: int, keys: int) -> None:
    now = unix_us(SystemClock().now())
    for begin in range(0, keys, BATCH):
        with database.write() as session:
            session.execute(insert(ApiKey), [_key(number, now) for number in range(begin, min(begin + BATCH, keys))])
    for begin in range(0, rows, BATCH):
        with database.write() as session:
            session.execute(
                insert(LedgerEntry), [_row(number, now) for number in range(begin, min(begin + BATCH, rows))]
            )


def _key(number: int, now: int) -> dict[str, object]:
    return {
        "id": f"{number:08d}".translate(str.maketrans("0189", "abcd")) + secrets.token_hex(2),
        "tenant": f"tenant-{number % 8}", "name": "", "digest": secrets.token_bytes(32), "created_us": now,
    }  # fmt: skip


def _row(number: int, now: int) -> dict[str, object]:
    return {
        "job": new_id(), "tenant": f"tenant-{number % 8}", "key_id": "aaaaaaaa", "requested_model": MODEL,
        "model": MODEL, "digest": stub.DIGEST, "prompt_tokens": 32, "completion_tokens": 64, "engine_us": 64000,
        "state": LedgerState.SETTLED, "outcome": "stop", "month": "2026-01", "reserved_tokens": 96,
        "created_us": now, "settled_us": now + number, "writer": "host.gateway",
    }  # fmt: skip


@contextlib.asynccontextmanager
async def litellm(folder: Path, backend: int) -> AsyncIterator[Served]:
    """The LiteLLM proxy before the stub's port ``backend``, with one worker and its master key as authentication."""
    command = _litellm_program()
    port, config = free_port(), folder / "litellm.yaml"
    config.write_text(CONFIG % backend)
    arguments = [command, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with process(arguments, folder / "litellm.log") as pid:
        target = Target(f"LiteLLM {LITELLM}", port, "sk-bench")
        await answers(target)
        yield Served(target, pid)


def _litellm_program() -> Path:
    program = PLACE / "bin" / "litellm"
    done = PLACE / "complete"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
        subprocess.run([PLACE / "bin/pip", "install", "--quiet", f"litellm[proxy]=={LITELLM}"], check=True)
        done.write_text(hashlib.sha256(program.read_bytes()).hexdigest())
    return program


async def answers(target: Target) -> None:
    """Wait until it answers a chat."""
    until = time.monotonic() + START_S
    while True:
        try:
            await streams(target, people=1, requests=1, max_tokens=2)
        except (OSError, RuntimeError, ValueError, asyncio.IncompleteReadError) as error:
            if time.monotonic() > until:
                raise RuntimeError(f"{target.name} does not answer: {error!r}") from error
            await asyncio.sleep(0.2)
        else:
            return


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A short folder for sockets and sites, and descriptors for a thousand clients and more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(DESCRIPTORS, hard)), hard))
    with tempfile.TemporaryDirectory(prefix="gw") as folder:
        yield Path(folder)
