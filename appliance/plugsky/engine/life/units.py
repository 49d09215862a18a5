"""The edge of an engine's life on a host: systemd starts, watches and ends engines, and this asks it how they stand.

Only a request starts an engine, by connecting to its socket; whoever merely looks must not. So systemd is asked first
which engines run, and only those are asked for their figures.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import EngineError
from plugsky.engine.life.lifecycle import State
from plugsky.engine.life.status import EngineStatus

UNIT: Final = "plugsky-engine@{}.service"
SYSTEMCTL: Final = "/usr/bin/systemctl"
PATIENCE_S: Final = 5.0
STATS_S: Final = 1.0
_PROPERTIES: Final = ("Id", "LoadState", "ActiveState", "SubState", "MainPID", "NRestarts", "Result", "StatusText")
_STATES: Final[Mapping[str, State]] = {
    "active": "ready",
    "reloading": "ready",
    "activating": "loading",
    "deactivating": "retiring",
    "failed": "crashed",
    "inactive": "absent",
}
_REFUSING: Final = "refusing: "


@dataclass(frozen=True)
class UnitView:
    """What systemd says of one engine's unit."""

    state: State
    pid: int = 0
    restarts: int = 0
    problem: str = ""


def read_units(text: str) -> dict[str, UnitView]:
    """The units in what ``systemctl show`` printed, by name. Pure.

    An engine that could not load its model runs and refuses, and says so in its status: it serves nothing. One that
    systemd is about to start again has crashed.
    """
    found = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        state = _STATES.get(values.get("ActiveState", ""), "absent")
        problem = ""
        if values.get("SubState") == "auto-restart":
            state = "crashed"
        if state == "crashed":
            problem = f"its process ended: {values.get('Result', 'unknown')}"
        if state == "ready" and values.get("StatusText", "").startswith(_REFUSING):
            state, problem = "absent", values["StatusText"].removeprefix(_REFUSING)
        found[values.get("Id", "")] = UnitView(
            state, int(values.get("MainPID") or 0), int(values.get("NRestarts") or 0), problem
        )
    return found


class UnitsOfHost:
    """The :class:`~plugsky.admin.ports.EngineTable` of a host. Use it from one event loop."""

    def __init__(self, models: Iterable[str], socket_of: Callable[[str], Path], systemctl: str = SYSTEMCTL) -> None:
        self._models = tuple(models)
        self._socket_of = socket_of
        self._systemctl = systemctl

    async def engines(self) -> Mapping[str, EngineStatus]:
        """How each model's engine stands now. Raises UNREACHABLE where systemd does not say."""
        if not self._models:
            return {}
        units = read_units(await self._show([UNIT.format(model) for model in self._models]))
        views = {model: units.get(UNIT.format(model), UnitView("absent")) for model in self._models}
        statuses = await asyncio.gather(*(self._status(model, view) for model, view in views.items()))
        return dict(zip(views, statuses, strict=True))

    async def _status(self, model: str, view: UnitView) -> EngineStatus:
        status = EngineStatus(view.state, pid=view.pid, restarts=view.restarts, problem=view.problem)
        if view.state != "ready":
            return status
        client = EngineClient(self._socket_of(model))
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(STATS_S):
                await client.connect(STATS_S)
                status = status.with_stats(await client.stats())
        await client.close()
        return status

    async def _show(self, units: Sequence[str]) -> str:
        command = (self._systemctl, "show", f"--property={','.join(_PROPERTIES)}", "--", *units)
        process = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
                )
                said, _ = await process.communicate()
        except (OSError, TimeoutError) as error:
            if process is not None and process.returncode is None:
                process.kill()
            raise _silent(type(error).__name__) from error
        if process.returncode != 0:
            raise _silent(f"systemctl ended with {process.returncode}")
        return said.decode(errors="replace")


def _silent(why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.UNREACHABLE,
        "systemd does not say how the engines stand",
        why=why,
        next="systemctl status 'plugsky-engine@*'",
    )
