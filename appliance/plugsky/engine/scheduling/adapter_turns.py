"""Which adapter the next step computes with: a step serves one, so those with work take turns.

A turn lasts :data:`TURN_US` of compute time, or until its adapter has no work; requests of the others keep their cells
and wait where they are. An adapter's share of the time is that of its tenants: each tenant brings its weight, split
evenly over the adapters it has work for. The next turn is for whoever has had least for its share, as virtual time.

Guarantees, while a set of adapters has work all the time:

1. *Fair to tenants.* A tenant with work for many adapters gets no more than one with work for a single one.
2. *No starvation.* An adapter is without a turn no longer than all the others need to catch up with it: about one turn
   over its share of the whole.
3. *No saving up.* One that comes, or comes back, starts level with the one furthest behind, and first among equals.
4. *Deterministic.* What is chosen follows from what was handed in.

"No adapter" is one of them here.
"""

from collections.abc import Iterable
from typing import Final

from plugsky.engine.scheduling.tasks import Run
from plugsky.engine.scheduling.waiting import Tenant

TURN_US: Final = 100_000
"""Compute time of a turn: short, as everybody else's streams stand still meanwhile. A switch costs a few ms."""


class AdapterTurns:
    """The turns of one context. ``adapter`` is whose turn it is."""

    def __init__(self) -> None:
        self.adapter = ""
        self.watched = False
        """Whether tasks of other adapters wait for the end of this step to decode."""
        self._spent_us = 0
        self._shares: dict[str, float] = {}
        self._served: dict[str, float] = {}
        self._level = 0.0

    def choose(self, running: Iterable[Run]) -> str:
        """Whose turn it is now, given all tasks that were admitted."""
        running = [run for run in running if run.resident is not None]
        shares = _shares(running)
        for adapter in shares:
            if adapter not in self._shares:
                self._served[adapter] = max(self._served.get(adapter, 0.0), self._level)
        self._shares = shares
        if shares and (self.adapter not in shares or self._spent_us >= TURN_US):
            self.adapter = min(shares, key=lambda name: (self._served[name], name == self.adapter, name))
            self._spent_us = 0
        self.watched = len(shares) > 1 and any(run.task.adapter != self.adapter and run.left() == 1 for run in running)
        return self.adapter

    def charge(self, t_us: int) -> None:
        """A step of the adapter whose turn it is took ``t_us``."""
        self._spent_us += t_us
        self._served[self.adapter] += t_us / self._shares[self.adapter]
        self._level = max(self._level, min(self._served[adapter] for adapter in self._shares))


def _shares(running: Iterable[Run]) -> dict[str, float]:
    """The share of each adapter with work: a tenant's weight is split over those it has work for."""
    wanted: dict[Tenant, dict[str, None]] = {}
    for run in running:
        wanted.setdefault(run.tenant, {})[run.task.adapter] = None
    shares: dict[str, float] = {}
    for tenant, adapters in wanted.items():
        for adapter in adapters:
            shares[adapter] = shares.get(adapter, 0.0) + tenant.account.weight / len(adapters)
    return shares
