"""Keeps the gateway process of a site alive, on a listener that outlives it.

A gateway that dies is started again after a pause that doubles; one that stayed up for :data:`CALM_S` starts the pauses
anew. :data:`MAX_DEATHS` deaths in a row without a single answer, or a process that cannot be started as often, and the
gateway is given up: its start would only fail again.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.processes import Child, how_it_ended, pause_s

MAX_DEATHS: Final = 3
CALM_S: Final = 60.0
STOP_S: Final = 60.0
"""Seconds between the request to end and SIGKILL; longer than a gateway drains."""
POLL_S: Final = 0.05
_log: Final = logging.getLogger(__name__)


class GatewayKeeper:
    """One gateway, kept alive. Made and used inside one event loop."""

    def __init__(
        self, command: Sequence[str], listener: socket.socket, log: Path, ask: Callable[[], Awaitable[object]]
    ) -> None:
        """``ask`` puts a question to the gateway and raises PlugskyError while it does not answer."""
        self._command, self._listener, self._log, self._ask = tuple(command), listener, log, ask
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The process now; 0 between two of its lives."""
        return self._child.pid if self._child else 0

    def start(self) -> None:
        """Start the process and keep it alive from now on."""
        self._task = asyncio.create_task(self._keep())
        self._task.add_done_callback(self._ended)

    async def answered(self) -> None:
        """Wait until a gateway has answered."""
        await self._answered.wait()

    async def given_up(self) -> None:
        """Never returns; raises what ended the keeping, a PlugskyError once the gateway has died too often."""
        await asyncio.shield(self._given_up)

    def reload(self) -> None:
        """Let it read its certificate again."""
        if self._child is not None:
            self._child.reload()

    async def stop(self) -> None:
        """Let it drain, and end it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._child is not None:
            self._child.terminate()
            try:
                await asyncio.wait_for(self._child.wait(), STOP_S)
            except TimeoutError:
                self._child.kill()
                await self._child.wait()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        deaths = crashes = 0
        while True:
            began = loop.time()
            how, answered = await self._live()
            _log.error("the gateway %s", how)
            deaths = 0 if answered else deaths + 1
            if deaths >= MAX_DEATHS:
                raise PlugskyError(
                    ErrorKind.UNREACHABLE,
                    "The gateway cannot be kept running.",
                    why=f"it {how}, {deaths} times in a row before it answered once",
                    next=f"read {self._log}",
                )
            crashes = crashes + 1 if loop.time() - began < CALM_S else 1
            await asyncio.sleep(pause_s(crashes))

    async def _live(self) -> tuple[str, bool]:
        """One life: how it ended, and whether it ever answered."""
        try:
            child = self._child = Child.spawn(self._command, self._listener, self._log)
        except OSError as error:
            return f"could not be started: {error.strerror or error}", False
        asking = asyncio.create_task(self._until_it_answers())
        try:
            how = how_it_ended(await child.wait())
        finally:
            asking.cancel()
            (failure,) = await asyncio.gather(asking, return_exceptions=True)
        self._child = None
        if isinstance(failure, Exception):
            raise failure
        return how, failure is None

    async def _until_it_answers(self) -> None:
        while True:
            try:
                await self._ask()
            except PlugskyError:
                await asyncio.sleep(POLL_S)
            else:
                self._answered.set()
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._given_up.set_exception(error)
            self._given_up.exception()  # marks it as seen: the site may be ending already
