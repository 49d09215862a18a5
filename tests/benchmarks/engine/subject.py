"""The engine under test: its real process, with its real client, over its own socket."""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance import engine_host
from benchmarks.engine.asks import Answer, Ask
from plugsky.core import frames, ids
from plugsky.core.processes import Child
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.spec import EngineSpec

CONTEXT = 16_384
LOAD_S = 60.0


@dataclass(frozen=True)
class StepSeen:
    """A step frame as it came: when, the engine's own measure of its computing, and its tokens."""

    at: float
    n: int
    t_us: int
    tokens: int


class Watched(EngineClient):
    """A client that also keeps the figures of each step."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.steps: list[StepSeen] = []

    def _dispatch(self, frame: frames.FromEngine) -> None:
        if isinstance(frame, frames.Step):
            tokens = sum(len(item.ids) for item in frame.items)
            self.steps.append(StepSeen(time.perf_counter(), frame.n, frame.t_us, tokens))
        super()._dispatch(frame)


@dataclass
class Engine:
    """A loaded engine with a connection."""

    pid: int
    client: Watched
    loaded_s: float
    known: list[str] = field(default_factory=list)

    async def ask(self, ask: Ask) -> Answer:
        """See :class:`~benchmarks.engine.asks.Server`; preparing the prompt is part of it."""
        answer = Answer(time.perf_counter())
        tokens = ask.tokens
        if ask.messages:
            messages = tuple(frames.Message(role, content) for role, content in ask.messages)
            tokens = (await self.client.prepare(tenant=ask.tenant, messages=messages)).tokens
        running = self.client.submit(
            job=ids.new_id(),
            tenant=ask.tenant,
            tokens=tokens,
            params=frames.Params(temperature=ask.temperature, ignore_eos=True),
            max_tokens=ask.max_tokens,
        )
        try:
            async for item in running:
                if item.ids:
                    answer.arrivals.append((time.perf_counter(), len(item.ids)))
                    answer.ids += item.ids
                if item.final is not None:
                    answer.engine_us = item.final.usage.engine_us
            running.acknowledge()
        finally:
            running.cancel()
        return answer

    def rss(self) -> int:
        """Bytes of memory of the process and its children, pages of the model's file included."""
        return sum(resident(pid) for pid in family(self.pid))


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def running(model: Path, *, threads: int, cells: int = CONTEXT) -> AsyncIterator[Engine]:
    """A freshly loaded engine."""
    spec = EngineSpec("bench", model, engine_host.digest_of(model), "generate", cells, threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "engine.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        began = time.perf_counter()
        child = Child.spawn(engine_host.command_for(spec), listener, path.with_suffix(".log"))
        listener.close()
        client = Watched(path)
        try:
            await client.connect(LOAD_S)
            yield Engine(child.pid, client, time.perf_counter() - began)
        finally:
            await client.close()
            child.kill()
            await child.wait()
