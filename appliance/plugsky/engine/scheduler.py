"""Which tokens the next step computes. Pure and deterministic: no clock, no model, no randomness.

A task is a list of tokens of which the first ``computed`` lie in the KV cache; the rest is pending. A task with one
pending token decodes, one with more prefills. A step takes one token from every task that decodes, then prompt tokens
up to a budget. All of it goes into one batch.

Guarantees, each held by a test over random schedules:

1. A plan never needs more cells than the cache has free, nor more tokens than a batch holds.
2. Every task that decodes gets its token in every step.
3. Places are given in turn to the tenant that holds fewest; the prefill budget is shared by tenant, small needs first.
   A tenant with many requests delays another's by no more than its own share.
4. A head of the queue that does not fit yet is waited for, not overtaken, so a long prompt is never starved.
5. When the cache is full the youngest task gives up its cells and returns to the head of its tenant's queue, to be
   computed again later. The oldest is never chosen, so there is always progress and never a failure for all.
6. The queue is bounded: :class:`QueueFullError` says the bound.

The words are those of batching: a :class:`Plan` is one step, a :class:`Chunk` a run of tokens of one task. They have
nothing to do with the plan of an installation or the chunks of a file on media.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GROWTH: Final = 16
"""Cells kept free for each placed task when another is admitted, so that a newcomer is not evicted at once."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one engine. All count tokens (= cells), but ``places`` and ``queue`` count tasks."""

    cells: int
    batch: int = 512
    places: int = 16
    prefill: int = 128
    """Prompt tokens per step while another task decodes: it bounds how long a step keeps that one waiting."""
    queue: int = 256


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one task; ``last`` when a token is chosen after them."""

    ticket: int
    place: int
    start: int
    tokens: Sequence[int]
    last: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: clear ``cleared`` places, then compute ``chunks`` in one batch."""

    cleared: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class QueueFullError(Exception):
    """No more tasks may wait. ``bound`` is how many may."""

    def __init__(self, bound: int) -> None:
        super().__init__(f"{bound} requests are waiting")
        self.bound = bound


@dataclass(slots=True, eq=False)
class _Task:
    ticket: int
    tenant: str
    tokens: list[int]
    computed: int = 0
    place: int = -1

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed


class Scheduler:
    """The tasks of one context. Tickets number them in order of arrival."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._tasks: dict[int, _Task] = {}
        self._placed: list[_Task] = []
        self._waiting: dict[str, deque[_Task]] = {}
        self._free = list(range(limits.places))
        self._served: dict[str, int] = {}
        self._turn = 0
        self._n_waiting = 0

    @property
    def running(self) -> int:
        """Tasks that hold a place."""
        return len(self._placed)

    @property
    def waiting(self) -> int:
        """Tasks in the queue, those sent back to it included."""
        return self._n_waiting

    @property
    def used(self) -> int:
        """Cells in use."""
        return sum(task.computed for task in self._placed)

    def add(self, ticket: int, tenant: str, tokens: Sequence[int]) -> None:
        """Queue a task; ``ticket`` must be higher than any before. Raises :class:`QueueFullError`."""
        if self._n_waiting >= self.limits.queue:
            raise QueueFullError(self.limits.queue)
        task = _Task(ticket, tenant, list(tokens))
        self._tasks[ticket] = task
        self._waiting.setdefault(tenant, deque()).append(task)
        self._n_waiting += 1

    def append(self, ticket: int, token: int) -> None:
        """The token chosen for a task after its ``last`` chunk."""
        self._tasks[ticket].tokens.append(token)

    def remove(self, ticket: int) -> int | None:
        """Forget a task. The place whose cells must be cleared now, or None when it held none."""
        task = self._tasks.pop(ticket)
        if task.place < 0:
            queue = self._waiting[task.tenant]
            queue.remove(task)
            self._dequeued(task.tenant)
            return None
        return self._leave(task)

    def relieve(self) -> int | None:
        """Send the youngest task back to its queue; the place to clear, or None when only one is left."""
        if len(self._placed) < 2:
            return None
        return self._evict()

    def plan(self) -> Plan:
        """The next step; no chunks when there is nothing to do. Follow it with :meth:`commit`."""
        cleared: list[int] = []
        while self.used + self._decoding() > self.limits.cells:
            cleared.append(self._evict())
        self._admit()
        chunks = [self._chunk(task, 1) for task in self._placed if task.pending == 1]
        chunks += self._prefill(len(chunks))
        self._turn += 1
        return Plan(tuple(cleared), tuple(chunks))

    def commit(self, chunks: Sequence[Chunk]) -> None:
        """These chunks were computed: their cells are in use."""
        for chunk in chunks:
            self._tasks[chunk.ticket].computed += len(chunk.tokens)

    def _decoding(self) -> int:
        return sum(task.pending == 1 for task in self._placed)

    def _prefill(self, decoding: int) -> list[Chunk]:
        """Prompt chunks within the budget, shared by tenant: who needs less than a fair share leaves the rest."""
        needs: dict[str, list[_Task]] = {}
        for task in self._placed:
            if task.pending > 1:
                needs.setdefault(task.tenant, []).append(task)
        budget = min(
            self.limits.prefill if decoding else self.limits.batch,
            self.limits.batch - decoding,
            self.limits.cells - self.used - decoding,
        )
        tenants = sorted(needs, key=lambda name: (sum(task.pending for task in needs[name]), self._served[name]))
        chunks: list[Chunk] = []
        for index, tenant in enumerate(tenants):
            share = -(-budget // (len(tenants) - index))
            for task in needs[tenant]:
                take = min(share, task.pending)
                if take:
                    chunks.append(self._chunk(task, take))
                    share -= take
                    budget -= take
        return chunks

    def _chunk(self, task: _Task, take: int) -> Chunk:
        end = task.computed + take
        return Chunk(task.ticket, task.place, task.computed, task.tokens[task.computed : end], end == len(task.tokens))

    def _admit(self) -> None:
        while self._free and self._waiting:
            held = dict.fromkeys(self._waiting, 0)
            for placed in self._placed:
                if placed.tenant in held:
                    held[placed.tenant] += 1
            tenant = min(held, key=lambda name: (held[name], self._served.get(name, -1), self._waiting[name][0].ticket))
            task = self._waiting[tenant][0]
            promised = sum(len(placed.tokens) + GROWTH for placed in self._placed)
            if self._placed and promised + len(task.tokens) > self.limits.cells:
                return
            self._waiting[tenant].popleft()
            self._dequeued(tenant)
            task.place = heapq.heappop(self._free)
            self._placed.append(task)
            self._turn += 1
            self._served[tenant] = self._turn

    def _evict(self) -> int:
        task = max(self._placed, key=lambda placed: placed.ticket)
        place = self._leave(task)
        task.computed = 0
        self._waiting.setdefault(task.tenant, deque()).appendleft(task)
        self._n_waiting += 1
        self._served.setdefault(task.tenant, self._turn)
        return place

    def _leave(self, task: _Task) -> int:
        place, task.place = task.place, -1
        self._placed.remove(task)
        heapq.heappush(self._free, place)
        self._forget_idle(task.tenant)
        return place

    def _dequeued(self, tenant: str) -> None:
        self._n_waiting -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._forget_idle(tenant)

    def _forget_idle(self, tenant: str) -> None:
        """Keep no memory of tenants without tasks, so that it does not grow with their number."""
        if tenant not in self._waiting and all(task.tenant != tenant for task in self._placed):
            self._served.pop(tenant, None)
