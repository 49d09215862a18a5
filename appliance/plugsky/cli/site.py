"""One running site, put together: listener, engines, gateway, Admin. What ``plugsky serve`` runs.

Order of the start: the port is bound (so that a port in use changes nothing), engines and the gateway are started with
their sockets, the Admin socket opens, and when the gateway answers and no engine is still loading, the site is ready.
The end goes the other way: the gateway drains, then the engines end, then the trail is closed. A gateway that has to be
given up ends the site with its name. A supervisor that was killed leaves children that finish what runs and end by
themselves: the next one, which holds the lock of the site, waits for up to :data:`FORMER_S` for their sockets.

A site serves the generation that was current when it began, whatever is installed meanwhile: engines, the gateway in
each of its lives and Admin are told its number. Nothing here waits for a disk on the event loop once it serves.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final, TypeVar

from plugsky.admin.assembly import admin_service
from plugsky.admin.facts import FilesOfSite
from plugsky.admin.gateway_client import GatewayClient
from plugsky.admin.server import AdminServer, check_somebody_can_log_in
from plugsky.audit.events import Fact
from plugsky.cli.engine_specs import engine_spec
from plugsky.cli.gateway_keeper import GatewayKeeper
from plugsky.core.clock import SystemClock
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.listeners import authority, is_listened_on, listen
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.core.settings import Settings
from plugsky.engine.life.leases import granted_cores, lend_cores
from plugsky.engine.life.rooms import Rooms
from plugsky.engine.life.status import EngineStatus
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.spec import EngineSpec
from plugsky.fleet import generations
from plugsky.fleet.lock import serving
from plugsky.policy import isolation

_log: Final = logging.getLogger(__name__)
FORMER_S: Final = 30
"""Seconds; longer than a gateway and an engine drain."""
ValueT = TypeVar("ValueT")

Ready = Callable[[str, tuple[str, ...]], None]
"""Told once: the base URL and the models that are served."""


class Site:
    """The supervisor process of one site."""

    def __init__(self, paths: SitePaths, settings: Settings, policy: EffectivePolicy) -> None:
        self._paths, self._settings, self._policy = paths, settings, policy
        self._clock = SystemClock()
        self._generation = generations.current(paths)
        self._facts = FilesOfSite(paths, self._clock, self._generation)
        self._rooms = Rooms()
        entries = self._facts.models()
        specs = (engine_spec(entry, settings, len(entries)) for entry in entries)
        self._engines = {spec.model_id: self._supervisor(spec) for spec in specs}
        self._stopping = asyncio.Event()
        self._interrupted = False

    async def run(self, ready: Ready) -> bool:
        """Serve until a signal. Whether the signal was Ctrl-C. Raises PlugskyError when the site cannot go on."""
        self._check_host()
        await self._former_has_ended()
        with listen(self._settings.host, self._settings.port) as listener:
            async with AsyncExitStack() as stack:
                if self._generation is not None:
                    stack.enter_context(serving(self._generation.path))
                await self._serve(listener, ready, stack)
        return self._interrupted

    async def _former_has_ended(self) -> None:
        sockets = [self._paths.gateway_socket, *(supervisor.socket_path for supervisor in self._engines.values())]
        for _ in range(FORMER_S * 10):
            if not any(map(is_listened_on, sockets)):
                return
            await asyncio.sleep(0.1)

    async def _serve(self, listener: socket.socket, ready: Ready, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        scheme = "http" if self._settings.tls_certificate is None else "https"
        for supervisor in self._engines.values():
            await supervisor.start()
            stack.push_async_callback(supervisor.stop)
        if len(self._engines) > 1:
            lending = asyncio.create_task(
                lend_cores(granted_cores(self._settings.threads), self._engines, self._rooms.seen)
            )
            stack.callback(lending.cancel)
        control = GatewayClient(self._paths.gateway_socket)
        stack.push_async_callback(control.close)
        log = self._paths.logs / "gateway.log"
        gateway = GatewayKeeper(self._gateway_command(), listener, log, control.traffic)
        stack.push_async_callback(gateway.stop)
        gateway.start()
        loop.add_signal_handler(signal.SIGHUP, gateway.reload)

        async def probe() -> isolation.IsolationReading:
            pids = {os.getpid(): "admin", gateway.pid: "gateway"}
            pids |= {supervisor.life.pid: "engine" for supervisor in self._engines.values()}
            pids.pop(0, None)
            return await asyncio.to_thread(isolation.probe, pids, self._policy.bind_hosts)

        opening = admin_service(
            self._paths, "admin", self._clock, self._facts, probe, self._settings, engines=self, gateway=control
        )
        service = await asyncio.to_thread(opening.__enter__)
        stack.push_async_callback(asyncio.to_thread, opening.__exit__, None, None, None)

        async def record(action: str, subject: str, fields: Mapping[str, Fact]) -> None:
            await asyncio.to_thread(service.audit.record, action, "site", subject, "ok", fields)

        required = self._settings.logins == "required"
        if required:
            check_somebody_can_log_in(service)
        server = AdminServer(service, login_required=required)
        await server.start()
        stack.push_async_callback(server.close)
        address = authority(listener)
        await record("site.start", address, {"models": len(self._engines)})
        served = await self._until(gateway, self._ready(gateway))
        if served is not None:
            ready(f"{scheme}://{address}/v1", served)
            await self._until(gateway, self._stopping.wait())
        await record("site.stop", address, {"interrupted": self._interrupted})

    async def _until(self, gateway: GatewayKeeper, work: Awaitable[ValueT]) -> ValueT | None:
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

    async def _ready(self, gateway: GatewayKeeper) -> tuple[str, ...]:
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
                next=command_line("doctor", "--root", self._paths.root),
            )
        await gateway.answered()
        return served

    async def engines(self) -> Mapping[str, EngineStatus]:
        """The :class:`~plugsky.admin.ports.EngineTable` of this site."""
        return {model: await supervisor.status() for model, supervisor in self._engines.items()}

    def _stop(self, number: signal.Signals) -> None:
        self._interrupted = number == signal.SIGINT
        self._stopping.set()

    def _supervisor(self, spec: EngineSpec) -> EngineSupervisor:
        self._paths.logs.mkdir(mode=0o750, exist_ok=True)
        return EngineSupervisor(
            spec,
            self._paths.engine_socket(spec.model_id),
            idle_s=self._settings.idle_exit,
            log=self._paths.logs / f"engine-{spec.model_id}.log",
            rooms=self._rooms,
        )

    def _gateway_command(self) -> tuple[str, ...]:
        options = {
            "--root": str(self._paths.root),
            "--exit-with-parent": str(os.getpid()),
            "--context": str(self._settings.context),
        }
        if self._generation is not None:
            options["--generation"] = str(self._generation.number)
        return (sys.executable, "-m", "plugsky", "gateway", "run", *(word for pair in options.items() for word in pair))

    def _check_host(self) -> None:
        if self._settings.host not in self._policy.bind_hosts:
            raise PlugskyError(
                ErrorKind.POLICY_REFUSED,
                f"This site may not listen on {self._settings.host}.",
                why="beyond loopback, keys and prompts would travel unencrypted",
                next="set tls_certificate and tls_key, or listen on 127.0.0.1 and let ssh -L carry it further",
            )
