"""The gateway's connections to the engines: one per model, made by the first request that wants it.

Requests that find their model loading wait together for one connection, up to ``load_wait``; only beyond that, or
when too many wait already, is one turned away. What is in flight when an engine is lost is carried on by the next
one, and so is what comes after one has retired (:mod:`plugsky.engine.clients.line`). A socket where nobody listens is
an engine that its supervisor is about to start (again), so it is waited for too, and so is a little while one that
does not fit; a load that failed is said at once.
"""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.clients.line import EngineLine
from plugsky.engine.clients.quarantine import Quarantine
from plugsky.engine.errors import DoesNotFitError
from plugsky.server.deps import Engine, ServedModel

ROOM_S: Final = 4.0
"""How long a model that does not fit is waited for: others may be making room."""
_KEY_BYTES: Final = 32
_WORTH_WAITING: Final = frozenset({ErrorKind.UNREACHABLE, ErrorKind.ENGINE_LOST})
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


class EnginePool:
    """A connection per model. ``socket_of`` says where the engine of a model listens."""

    def __init__(self, socket_of: Callable[[str], Path], load_wait_s: float, max_waiting: int) -> None:
        self._socket_of = socket_of
        self._load_wait_s = load_wait_s
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lines: dict[str, EngineLine] = {}
        self._contexts: dict[str, int] = {}
        self._quarantines: dict[str, Quarantine] = {}
        self._connecting: dict[str, asyncio.Task[EngineLine]] = {}

    async def engine(self, model: ServedModel) -> Engine:
        """The connected engine of ``model``. Raises ``loading`` or ``overloaded``, or why it cannot be had."""
        line = self._lines.get(model.id)
        if line is not None and line.connected:
            return line
        if self._waiting >= self._max_waiting:
            raise PlugskyError(
                ErrorKind.OVERLOADED,
                f"{self._waiting} requests wait for models to load already",
                why=f"the limit is {self._max_waiting}",
                retry_after=5.0,
            )
        task = self._connecting.get(model.id)
        if task is None:
            task = asyncio.create_task(self._line(model), name=f"connect {model.id}")
            self._connecting[model.id] = task
            task.add_done_callback(lambda done: self._connected(model.id, done))
        self._waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting -= 1

    def connected(self) -> frozenset[str]:
        """The ids of the models whose engines are there now."""
        return frozenset(model for model, line in self._lines.items() if line.connected)

    def context_of(self, model: ServedModel) -> int:
        """The context the model is served with, in tokens; before its engine was first seen, the trained one."""
        return self._contexts.get(model.id, model.context)

    async def close(self) -> None:
        """End every connection; what is in flight fails with ``engine_lost``."""
        tasks = list(self._connecting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in self._lines.values():
            await line.close()

    def _connected(self, model: str, task: "asyncio.Task[EngineLine]") -> None:
        del self._connecting[model]
        if not task.cancelled():
            task.exception()  # marks it as seen: every request that waited has raised it for itself

    async def _line(self, model: ServedModel) -> EngineLine:
        former = self._lines.get(model.id)
        if former is not None and not former.over:
            await former.back()
            return former
        client = await self._connect(model)
        quarantine = self._quarantines.setdefault(model.id, Quarantine(secrets.token_bytes(_KEY_BYTES)))
        line = self._lines[model.id] = EngineLine(client, lambda: self._connect(model), quarantine)
        return line

    async def _connect(self, model: ServedModel) -> EngineClient:
        client = EngineClient(self._socket_of(model.id))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._load_wait_s
        pause = _FIRST_PAUSE_S
        until = 0.0
        while True:
            try:
                hello = await client.connect(max(deadline - loop.time(), 0.001))
                break
            except DoesNotFitError:
                # Its site may be making room for it: others that have nothing to do are ended, and it is started again.
                until = until or loop.time() + ROOM_S
                if loop.time() >= until:
                    raise
            except PlugskyError as error:
                if error.kind not in _WORTH_WAITING:
                    raise
                if loop.time() + pause >= deadline:
                    raise PlugskyError(
                        ErrorKind.LOADING,
                        f"The model {model.id} is not ready",
                        why=f"its engine did not come up within {self._load_wait_s:g} s",
                        retry_after=max(1.0, self._load_wait_s / 4),
                    ) from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
        if hello.digest != model.digest:
            await client.close()
            raise PlugskyError(
                ErrorKind.LOADING,
                f"The engine of {model.id} holds another version of the model",
                why="the site is changing generations",
                retry_after=5.0,
            )
        self._contexts[model.id] = hello.n_ctx
        return client
