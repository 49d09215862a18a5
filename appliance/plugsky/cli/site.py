"""One running site, put together: listener, engines, gateway, Admin. What ``plugsky serve`` runs.

Order of the start: the port is bound (so that a port in use changes nothing), engines and the gateway are started with
their sockets, the Admin socket opens, and when the gateway answers and no engine is still loading, the site is ready.
The end goes the other way: the gateway drains, then the engines end, then the trail is closed. A gateway that dies is
started again on the same listener after a pause that doubles; one that dies :data:`MAX_DEATHS` times within
:data:`YOUNG_S` of its start ends the site with its name.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final, TypeVar

from plugsky.admin import ports
from plugsky.admin.assembly import admin_service
from plugsky.admin.facts import FilesOfSite
from plugsky.admin.gateway_client import GatewayClient
from plugsky.admin.server import AdminServer
from plugsky.core.activation import listen
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.core.settings import Settings
from plugsky.engine.child import Child, how_it_ended
from plugsky.engine.lifecycle import pause_s
from plugsky.engine.spec import EngineSpec
from plugsky.engine.supervisor import EngineSupervisor
from plugsky.models import catalogue
from plugsky.policy import isolation

MAX_DEATHS: Final = 3
YOUNG_S: Final = 5.0
GATEWAY_STOP_S: Final = 60.0
READY_POLL_S: Final = 0.05
_log: Final = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")

Ready = Callable[[str, tuple[str, ...]], None]
"""Told once: the base URL and the models that are served."""


class Site:
    """The supervisor process of one site."""

    def __init__(self, paths: SitePaths, settings: Settings, policy: EffectivePolicy) -> None:
        self._paths, self._settings, self._policy = paths, settings, policy
        self._engines = {spec.model_id: self._supervisor(spec) for spec in self._specs()}
        self._stopping = asyncio.Event()
        self._interrupted = False

    async def run(self, ready: Ready) -> bool:
        """Serve until a signal. Whether the signal was Ctrl-C. Raises PlugskyError when the site cannot go on."""
        self._check_host()
        with listen(self._settings.host, self._settings.port) as listener:
            async with AsyncExitStack() as stack:
                await self._serve(listener, ready, stack)
        return self._interrupted

    async def _serve(self, listener: socket.socket, ready: Ready, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        for supervisor in self._engines.values():
            await supervisor.start()
            stack.push_async_callback(supervisor.stop)
        gateway = GatewayKeeper(self._paths, listener)
        stack.push_async_callback(gateway.stop)
        gateway.start()
        clock = SystemClock()
        control = GatewayClient(self._paths.gateway_socket)
        stack.push_async_callback(control.close)
        facts = FilesOfSite(self._paths, clock)

        async def probe() -> isolation.IsolationReading:
            pids = {os.getpid(): "admin", gateway.pid: "gateway"}
            pids |= {supervisor.life.pid: "engine" for supervisor in self._engines.values()}
            pids.pop(0, None)
            return await asyncio.to_thread(isolation.probe, pids, self._policy.bind_hosts)

        service = stack.enter_context(
            admin_service(self._paths, "admin", clock, facts, probe, engines=self, gateway=control)
        )
        server = AdminServer(service)
        await server.start()
        stack.push_async_callback(server.close)
        address = "{}:{}".format(*listener.getsockname()[:2])
        service.audit.record("site.start", "site", address, "ok", {"models": len(self._engines)})
        served = await self._until(gateway, self._ready(control))
        if served is not None:
            ready(f"http://{address}/v1", served)
            await self._until(gateway, self._stopping.wait())
        service.audit.record("site.stop", "site", address, "ok", {"interrupted": self._interrupted})

    async def _until(self, gateway: "GatewayKeeper", work: Awaitable[ValueT]) -> ValueT | None:
        """What ``work`` gives; None when the site is asked to stop first. Raises when the gateway is given up."""
        wanted = asyncio.ensure_future(work)
        others = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(gateway.given_up())]
        try:
            await asyncio.wait([wanted, *others], return_when=asyncio.FIRST_COMPLETED)
            if others[1].done():
                others[1].result()
            return wanted.result() if wanted.done() else None
        finally:
            for task in (wanted, *others):
                task.cancel()

    async def _ready(self, control: GatewayClient) -> tuple[str, ...]:
        """Wait for every engine's verdict and for the gateway. Raises when no model can be served."""
        for supervisor in self._engines.values():
            await supervisor.settled()
        served = tuple(model for model, supervisor in self._engines.items() if supervisor.life.serves)
        problems = {m: s.life.problem for m, s in self._engines.items() if not s.life.serves}
        for model, problem in problems.items():
            _log.error("the model %s cannot be served: %s", model, problem)
        if not served:
            raise PlugskyError(
                ErrorKind.ENGINE_LOST,
                "No model of this site can be served.",
                why="; ".join(f"{model}: {problem}" for model, problem in problems.items()) or "none is installed",
                next=f"plugsky doctor --root {self._paths.root}",
            )
        while True:
            try:
                await control.traffic()
            except PlugskyError:
                await asyncio.sleep(READY_POLL_S)
            else:
                return served

    async def engines(self) -> Mapping[str, ports.EngineStatus]:
        """The :class:`~plugsky.admin.ports.EngineTable` of this site."""
        found = {}
        for model, supervisor in self._engines.items():
            status = await supervisor.status()
            found[model] = ports.EngineStatus(
                state=status.state,
                pid=status.pid,
                threads=status.threads,
                running=status.running,
                waiting=status.waiting,
                kv_used=status.kv_used,
                kv_cells=status.kv_cells,
                tokens_per_s=status.tokens_per_s,
                rss_bytes=status.rss_bytes,
                restarts=status.restarts,
                problem=status.problem,
            )
        return found

    def _stop(self, number: signal.Signals) -> None:
        self._interrupted = number == signal.SIGINT
        self._stopping.set()

    def _specs(self) -> list[EngineSpec]:
        """One engine per model; the cores are shared so that the sum never exceeds what was granted."""
        entries = catalogue.models(self._paths)
        threads = max(1, self._settings.threads // max(1, len(entries)))
        return [
            EngineSpec(
                entry.id, entry.path, entry.sha256, entry.mode, min(self._settings.context, entry.context), threads
            )
            for entry in entries
        ]

    def _supervisor(self, spec: EngineSpec) -> EngineSupervisor:
        self._paths.logs.mkdir(mode=0o750, exist_ok=True)
        return EngineSupervisor(
            spec, self._paths.engine_socket(spec.model_id), log=self._paths.logs / f"engine-{spec.model_id}.log"
        )

    def _check_host(self) -> None:
        if self._settings.host not in self._policy.bind_hosts:
            raise PlugskyError(
                ErrorKind.POLICY_REFUSED,
                f"This site may not listen on {self._settings.host}.",
                why="beyond loopback, keys and prompts would travel unencrypted",
                next="listen on 127.0.0.1 and let a TLS proxy on this host, or ssh -L, carry it further",
            )


class GatewayKeeper:
    """Keeps one gateway process alive on a listener that outlives it."""

    def __init__(self, paths: SitePaths, listener: socket.socket) -> None:
        self._listener = listener
        self._log = paths.logs / "gateway.log"
        self._command = (
            sys.executable,
            "-m",
            "plugsky",
            "gateway",
            "run",
            "--root",
            str(paths.root),
            "--exit-with-parent",
        )
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The process now; 0 between two of its lives."""
        return self._child.pid if self._child else 0

    def start(self) -> None:
        """Start the process and keep it alive from now on."""
        self._task = asyncio.create_task(self._keep())

    async def given_up(self) -> None:
        """Never returns; raises PlugskyError once the gateway has died too often."""
        await asyncio.shield(self._given_up)

    async def stop(self) -> None:
        """Let it drain, and end it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._child is not None:
            self._child.terminate()
            try:
                await asyncio.wait_for(self._child.wait(), GATEWAY_STOP_S)
            except TimeoutError:
                self._child.kill()
                await self._child.wait()

    async def _keep(self) -> None:
        deaths = 0
        while True:
            started = time.monotonic()
            self._child = Child.spawn(self._command, self._listener, self._log)
            how = how_it_ended(await self._child.wait())
            self._child = None
            deaths = deaths + 1 if time.monotonic() - started < YOUNG_S else 1
            _log.error("the gateway %s", how)
            if deaths >= MAX_DEATHS:
                self._given_up.set_exception(
                    PlugskyError(
                        ErrorKind.UNREACHABLE,
                        "The gateway cannot be kept running.",
                        why=f"it {how}, {deaths} times within seconds of its start",
                        next=f"read {self._log}",
                    )
                )
                return
            await asyncio.sleep(pause_s(deaths))
