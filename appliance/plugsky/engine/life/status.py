"""How one engine stands, in numbers for people: what its supervisor tells the rest of the site."""

from dataclasses import dataclass, replace
from typing import Self

from plugsky.core import frames
from plugsky.engine.life.lifecycle import State


@dataclass(frozen=True)
class EngineStatus:
    """How one engine stands. Sizes in bytes, ``kv_used`` and ``kv_cells`` in cells, the rate in tokens per second."""

    state: State
    pid: int = 0
    threads: int = 0
    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_cells: int = 0
    tokens_per_s: float = 0.0
    rss_bytes: int = 0
    restarts: int = 0
    problem: str = ""

    def with_stats(self, stats: frames.StatsReply) -> Self:
        """The same with the figures that the engine gave."""
        return replace(
            self,
            running=stats.running,
            waiting=stats.waiting,
            kv_used=stats.kv_used,
            kv_cells=stats.kv_cells,
            tokens_per_s=stats.tokens_per_s,
            rss_bytes=stats.rss_bytes,
        )
