"""Whether a step of the engine hangs: a step that does not end for far longer than any should take.

Guarantees, in order: (1) only time in which there was work and nothing was heard of the owner's thread counts; (2) time
in which this process itself did not run does not count, however it was stopped; (3) the bound grows with the measured
time: :data:`FLOOR_S`, and :data:`FACTOR` times the slower of the slowest recent step and a full batch at the best cost
per token seen; before the first step it is :data:`UNMEASURED_S`. Does no IO; the time is passed in.

The engine that finds its step hanging ends itself with exit code :data:`HUNG_EXIT`: no other thread can end a step that
is stuck in C.
"""

import os
from typing import Final

from plugsky.core.processes import how_it_ended

HUNG_EXIT: Final = 75
"""EX_TEMPFAIL of sysexits(3): the next process may do better."""
TICK_S: Final = 1.0
"""Seconds between two looks."""
FLOOR_S: Final = 60.0
FACTOR: Final = 4.0
UNMEASURED_S: Final = 900.0
_DECAY: Final = 0.99


class Watchdog:
    """Watches the steps of one engine whose batches hold ``batch`` tokens. ``now`` is in seconds, monotonic."""

    def __init__(self, batch: int, now: float) -> None:
        self._batch = batch
        self._last = now
        self._waited = 0.0
        self._slowest_s = 0.0
        self._token_s = 0.0

    @property
    def bound_s(self) -> float:
        """Seconds of silence beyond which a step hangs."""
        if not self._slowest_s:
            return UNMEASURED_S
        return FLOOR_S + FACTOR * max(self._slowest_s, self._token_s * self._batch)

    def heard(self, t_us: int, tokens: int) -> None:
        """The owner's thread reported; with ``t_us`` a step of so many tokens has ended."""
        self._waited = 0.0
        if t_us and tokens:
            took = t_us / 1e6
            self._slowest_s = max(took, self._slowest_s * _DECAY)
            self._token_s = min(self._token_s or took, took / tokens)

    def hangs(self, now: float, *, busy: bool) -> bool:
        """To be asked every :data:`TICK_S`: whether there is work and no step ends."""
        passed, self._last = min(now - self._last, 2 * TICK_S), now
        self._waited = self._waited + passed if busy else 0.0
        return self._waited > self.bound_s


def how_an_engine_ended(status: int) -> str:
    """A wait status in words; that of a hung step by name."""
    if os.waitstatus_to_exitcode(status) == HUNG_EXIT:
        return "ended itself because a step did not end"
    return how_it_ended(status)
