"""The laptop edge of an engine's life: what systemd does on a host, ``plugsky serve`` does with this, without root.

An :class:`EngineSupervisor` owns the listening socket for as long as it runs, so a peer that connects while the engine
is loading or between two of its lives waits instead of failing. It starts the process, watches it end, follows its
loading over a connection of its own, and carries out what :mod:`plugsky.engine.life.lifecycle` decides: of an engine
that ended because it was idle, it starts the next when somebody connects. It never reads a model.

An engine's end is bounded however it begins: one that was told to end, or has closed the connection over which it is
followed, is killed when its process is still there :data:`STOP_S` later. One that retires by itself is followed until
it has nothing left to do.

What is pinned through it is pinned again once a later life is ready; after a crash, when that is forgiven.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from plugsky.core import frames
from plugsky.core.errors import ErrorKind
from plugsky.core.listeners import bind_unix
from plugsky.core.processes import Child
from plugsky.core.settings import AUTO
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.clients.pin_book import PinBook
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.life import lifecycle
from plugsky.engine.life.lifecycle import Life
from plugsky.engine.life.rooms import Rooms
from plugsky.engine.life.status import EngineStatus
from plugsky.engine.serving.watchdog import how_an_engine_ended
from plugsky.engine.spec import EngineSpec

LOG: Final = logging.getLogger(__name__)

STOP_S: Final = 30.0
"""Seconds between the beginning of the end and SIGKILL; longer than an engine drains."""
SILENCE_S: Final = 30.0
"""Seconds after which an engine that retires and says nothing is taken to hang."""
REFUSED_S: Final = 5.0
"""Seconds in which a process that found no room tells its peers so, before it ends."""
STATS_S: Final = 1.0
_LOAD_WAIT_S: Final = 3600.0
_NOT_A_VERDICT: Final = (ErrorKind.LOADING, ErrorKind.ENGINE_LOST, ErrorKind.UNREACHABLE)


class EngineSupervisor:
    """One engine, kept alive. All methods belong to one event loop."""

    def __init__(
        self,
        spec: EngineSpec,
        socket_path: Path,
        *,
        idle_s: int = 0,
        command: Sequence[str] | None = None,
        log: Path | None = None,
        rooms: Rooms | None = None,
    ) -> None:
        """The engine ends after ``idle_s`` seconds without a request, never if that is 0.

        ``command`` replaces ``plugsky engine run`` and its options; ``log`` takes what the engine says; ``rooms`` are
        shared with the other engines of the host.
        """
        self.spec = spec
        self.socket_path = socket_path
        self.life = Life()
        self._command = None if command is None else tuple(command)
        self._idle_s = idle_s
        self._rooms = rooms or Rooms()
        self._rooms.add(spec.model_id, self)
        self._log = log
        self._pins = PinBook(spec.model_id)
        self._threads = spec.threads
        self._listener: socket.socket | None = None
        self._child: Child | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._monitor = EngineClient(socket_path)
        self._monitor.on_change = self._heard
        self._stand_in: asyncio.Server | None = None
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Bind the socket and start the engine; returns before the model is loaded.

        Raises :class:`PlugskyError` (``conflict``) when another process listens there.
        """
        self._listener = bind_unix(self.socket_path)
        self._on(lifecycle.Admit())

    def admit(self) -> None:
        """Try again after a failed load or after the engine was given up."""
        self._on(lifecycle.Admit())

    async def stop(self) -> None:
        """Let the engine finish what runs, end it, and remove the socket."""
        self._on(lifecycle.Retire())
        while self._child is not None:
            await self._next_change()
        self._cancel_timer()
        await self._monitor.close()
        for task in list(self._tasks):
            task.cancel()
        self._dismiss_stand_in()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self.socket_path.unlink(missing_ok=True)

    async def settled(self) -> Life:
        """Wait until the engine serves, has refused its model, or was given up."""
        while not self.life.settled:
            await self._next_change()
        return self.life

    async def status(self) -> EngineStatus:
        """How the engine stands now, with its own figures when it answers within a second."""
        stats = None
        with contextlib.suppress(EngineError, TimeoutError):
            if self._monitor.connected:
                stats = await asyncio.wait_for(self._monitor.stats(), STATS_S)
        life = self.life
        status = EngineStatus(
            life.state,
            pid=life.pid,
            threads=self._threads,
            restarts=life.restarts,
            problem=life.problem,
        )
        return status if stats is None else status.with_stats(stats)

    @property
    def pid(self) -> int:
        """The engine's process now, 0 for none."""
        return self.life.pid

    async def rest(self) -> None:
        """Let it finish what runs and end, until somebody connects. Returns when its process is gone."""
        self._on(lifecycle.Rest())
        while self.life.state == "retiring":
            await self._next_change()

    async def load(self) -> int | None:
        """The requests that the engine has, running and waiting; None when it does not answer within a second."""
        with contextlib.suppress(EngineError, TimeoutError):
            if self._monitor.connected:
                stats = await asyncio.wait_for(self._monitor.stats(), STATS_S)
                return stats.running + stats.waiting
        return None

    def lend(self, threads: int) -> None:
        """Let the engine compute with ``threads`` cores from its next step on, until it ends."""
        with contextlib.suppress(EngineError):  # it has just ended, and begins its next life with its own share
            self._monitor.threads(threads)
            self._threads = threads

    async def pin(self, name: str, tokens: tuple[int, ...], adapter: str = "") -> int:
        """Have ``tokens`` kept for every tenant, in this life and the next ones, until unpinned: the cells they hold.

        For an administrator only. Raises :class:`EngineError`, as while the engine is not there.
        """
        return await self._pins.pin(self._monitor, name, tokens, adapter)

    async def unpin(self, name: str) -> None:
        """Give back what is pinned under ``name``. Raises :class:`EngineError`, ``not_found`` when nothing is."""
        await self._pins.unpin(self._monitor, name)

    def _on(self, event: lifecycle.Event) -> None:
        before = self.life.state
        self.life, effects = lifecycle.step(self.life, event)
        LOG.info("engine %s: %s, now %s", self.spec.model_id, type(event).__name__, self.life.state)
        for effect in effects:
            self._carry_out(effect)
        if self.life.state == "ready" and before != "ready":
            self._begin(self._pins.restore(self._monitor))
        self._changed.set()

    def _carry_out(self, effect: lifecycle.Effect) -> None:
        loop = asyncio.get_running_loop()
        match effect:
            case lifecycle.Spawn():
                self._begin(self._spawn_in_turn())
            case lifecycle.MakeRoom(missing):
                self._begin(self._make_room(missing))
            case lifecycle.Terminate():
                if self._child is not None:
                    self._child.terminate()
                    self._bound_its_end()
            case lifecycle.Wait(seconds):
                self._cancel_timer()
                self._timer = loop.call_later(seconds, self._on, lifecycle.BackoffOver())
            case lifecycle.Watch(seconds):
                self._cancel_timer()
                self._timer = loop.call_later(seconds, self._on, lifecycle.Calm())
            case lifecycle.Await():
                if self._listener is not None:
                    loop.add_reader(self._listener, self.admit)
            case lifecycle.GiveUp():
                LOG.error("engine %s is given up: %s", self.spec.model_id, self.life.problem)
                self._begin(self._stand_in_for_engine())

    async def _spawn_in_turn(self) -> None:
        """Start the process, and have the others wait with theirs until it is known what it takes."""
        async with self._rooms.turn:
            if self.life.state in ("admitted", "crashed") and self._listener is not None:
                self._spawn()
            while self.life.state == "loading":
                await self._next_change()

    async def _make_room(self, missing: int) -> None:
        if await self._rooms.make(self.spec.model_id, missing):
            self._on(lifecycle.Admit())
            return
        await asyncio.sleep(REFUSED_S)
        self._on(lifecycle.Dismiss())

    def _spawn(self) -> None:
        if self._listener is None:
            raise RuntimeError("an engine is spawned after its socket is bound")
        self._cancel_timer()
        self._dismiss_stand_in()
        asyncio.get_running_loop().remove_reader(self._listener)
        try:
            taken = self._rooms.taken_beside(self.spec.model_id)
            command = self._command or engine_command(replace(self.spec, taken=taken), self._idle_s)
            self._child = Child.spawn(command, self._listener, self._log)
        except OSError as error:
            self._on(lifecycle.SpawnFailed(error.strerror or str(error)))
            return
        self._threads = self.spec.threads
        self._on(lifecycle.Spawned(self._child.pid))
        self._begin(self._watch(self._child))

    async def _watch(self, child: Child) -> None:
        following = asyncio.create_task(self._follow_loading())
        status = await child.wait()
        following.cancel()
        await self._monitor.close()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        self._cancel_timer()
        self._child = None
        how = how_an_engine_ended(status)
        if self.life.state not in ("retiring", "absent"):
            LOG.error("engine %s %s", self.spec.model_id, how)
        self._on(lifecycle.Exited(how))

    def _heard(self) -> None:
        if not self._monitor.connected:
            self._bound_its_end()
        elif self._monitor.retiring:
            self._on(lifecycle.Idle())
            self._begin(self._leave_when_done())

    async def _leave_when_done(self) -> None:
        """Close the connection once nothing runs any more: the engine ends when its peers have left."""
        with contextlib.suppress(EngineError, TimeoutError):
            while True:
                stats = await asyncio.wait_for(self._monitor.stats(), SILENCE_S)
                if not stats.running + stats.waiting:
                    break
                await asyncio.sleep(STATS_S)
        await self._monitor.close()

    def _bound_its_end(self) -> None:
        if self._child is not None and self._kill_timer is None:
            self._kill_timer = asyncio.get_running_loop().call_later(STOP_S, self._child.kill)

    async def _follow_loading(self) -> None:
        while True:
            try:
                await self._monitor.connect(_LOAD_WAIT_S)
            except DoesNotFitError as error:
                self._on(lifecycle.NoRoom(error.what, error.need - error.have))
                return
            except EngineError as error:
                if error.kind is ErrorKind.LOADING:
                    continue
                if error.kind not in _NOT_A_VERDICT:
                    self._on(lifecycle.LoadFailed(error.what))
                return  # otherwise it is ending, and the one who waits for that says so
            self._on(lifecycle.Loaded())
            return

    async def _stand_in_for_engine(self) -> None:
        """Answer every peer with the engine's problem, so that nobody waits for one that will not come."""
        if self._listener is None:
            return
        problem = frames.Failed(rid=0, kind=ErrorKind.ENGINE_LOST.wire, what=self.life.problem)

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frames.encode(problem))
            writer.close()

        self._stand_in = await asyncio.start_server(answer, sock=self._listener.dup())

    def _dismiss_stand_in(self) -> None:
        if self._stand_in is not None:
            self._stand_in.close()
            self._stand_in = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def engine_command(spec: EngineSpec, idle_s: int = 0) -> tuple[str, ...]:
    """The command line of the engine process for ``spec``; it ends with the process that this is called in.

    Also after ``idle_s`` seconds without a request, unless that is 0.
    """
    options = {
        "--model-id": spec.model_id,
        "--model-file": str(spec.file),
        "--digest": spec.digest,
        "--mode": spec.mode,
        "--ctx": str(spec.n_ctx),
        "--threads": str(spec.threads),
        "--idle-exit": str(idle_s),
        "--batch": str(spec.batch),
        "--kv-type": spec.kv_type,
        "--gpu-layers": AUTO if spec.gpu_layers is None else str(spec.gpu_layers),
        "--numa": spec.numa,
        "--taken": str(spec.taken),
        "--exit-with-parent": str(os.getpid()),
    }
    if spec.projector is not None:
        options |= {"--projector": str(spec.projector.file), "--projector-digest": spec.projector.digest}
    pairs = [*options.items(), *(("--adapter", str(adapter)) for adapter in spec.adapters)]
    return (sys.executable, "-m", "plugsky", "engine", "run", *(word for pair in pairs for word in pair))
