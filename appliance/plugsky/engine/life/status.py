"""How one engine stands, in numbers for people: what its supervisor tells the rest of the site."""

from dataclasses import dataclass

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
