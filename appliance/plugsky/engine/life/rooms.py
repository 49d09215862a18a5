"""The memory of a host, shared by the engines of a site: who loads now, and who makes room for another.

Guarantees: engines load one after another, so that no two count the same free memory as theirs; the pages of models
that others have mapped, which the kernel calls available, are not; an engine makes room only when it has had nothing
to do for :data:`IDLE_S`, the one used longest ago first; and none is ended where that would not be enough.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

IDLE_S: Final = 3.0


class Resident(Protocol):
    """An engine as this room sees it."""

    @property
    def pid(self) -> int:
        """Its process now, 0 for none."""
        ...

    async def load(self) -> int | None:
        """Its requests; None where it does not say."""
        ...

    async def rest(self) -> None:
        """Let it finish what runs and end, until somebody wants it again. Returns when its process is gone."""
        ...


@dataclass(frozen=True)
class Holder:
    """An engine with nothing to do: the bytes it holds, and the second it was last seen busy."""

    name: str
    held: int
    used: float


def choose(holders: Iterable[Holder], missing: int) -> tuple[str, ...]:
    """Who is to make room for ``missing`` bytes: those used longest ago, and none where all would not be enough."""
    chosen: list[str] = []
    for holder in sorted(holders, key=lambda each: (each.used, each.name)):
        if missing <= 0:
            break
        chosen.append(holder.name)
        missing -= holder.held
    return tuple(chosen) if missing <= 0 else ()


class Rooms:
    """The engines of one site. All methods belong to one event loop."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.turn = asyncio.Lock()
        """Held by the engine that loads."""
        self._proc = proc
        self._engines: dict[str, Resident] = {}
        self._used: dict[str, float] = {}
        self._making = asyncio.Lock()

    def add(self, name: str, engine: Resident) -> None:
        """An engine that shares the memory."""
        self._engines[name] = engine

    def seen(self, busy: Mapping[str, bool]) -> None:
        """Who is busy now."""
        now = time.monotonic()
        self._used |= dict.fromkeys((name for name, is_busy in busy.items() if is_busy), now)

    def taken_beside(self, name: str) -> int:
        """Bytes of files, models above all, that the others have in memory and that the kernel calls available."""
        return sum(self._held(engine.pid, "RssFile:") for other, engine in self._engines.items() if other != name)

    async def make(self, name: str, missing: int) -> bool:
        """Make room of ``missing`` bytes for an engine, if that can be. Whether it could."""
        async with self._making:
            holders = [holder for other in self._engines if other != name and (holder := await self._holder(other))]
            chosen = choose(holders, missing)
            await asyncio.gather(*(self._engines[other].rest() for other in chosen))
            return bool(chosen)

    async def _holder(self, name: str) -> Holder | None:
        engine, used = self._engines[name], self._used.get(name, 0.0)
        if not engine.pid or time.monotonic() - used < IDLE_S or await engine.load() != 0:
            return None
        return Holder(name, self._held(engine.pid, "VmRSS:"), used)

    def _held(self, pid: int, kind: str) -> int:
        """Bytes of a ``kind`` of its memory that a process holds, none where it has gone."""
        try:
            lines = (self._proc / str(pid) / "status").read_text().splitlines() if pid else []
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
