"""What the next step computes. Pure and deterministic: no clock, no model, no randomness; times are handed in.

A task is a list of tokens of which the first lie in the KV cache; the rest is pending. A task with one pending token
decodes, one with more prefills. A step takes a token from tasks that decode, then prompt tokens up to a budget; all of
it goes into one batch, under one set of adapters.

Guarantees, each held by a test over random schedules or on a simulated machine:

1. *Bounds.* A plan never needs more cells than the cache has, more tokens than a batch holds, nor more decoding tasks
   than there are places, and one image at most. The line is bounded, in all and by tenant: :class:`QueueFullError`.
2. *Fair shares.* Compute time, as measured, is shared by weight among tenants with work (:mod:`.fairness`). A tenant
   ahead of its share keeps one token per step, or every other step while it has prompts to compute, so that nobody's
   stream stands still. A tenant alone has all places. What a step costs whoever is in it is split by tenants, so that
   where batching is free, many requests cost a tenant little more than one.
3. *Newcomers.* When all places are taken, a newcomer of a tenant with none, or with fewer by two, or of a higher class,
   gets one more; the places of a step then go around, and who is left out is paused where it is, its cells kept.
4. *Order.* Who waits goes by when it is due (:mod:`.waiting`): interactive before standard before batch, short before
   long, and everyone in time. Half of a step's prompt tokens go by that too, half to the shortest prompt. A request
   that was first and did not fit is not overtaken. Compute time of a standard request counts twice, of a batch request
   four times that of an interactive one.
5. *Latency.* Prompt tokens beside decoding ones fill the step up to the target time, and further only to complete a
   prompt: up to a second, longer time (:mod:`.pace`).
6. *Shared beginnings.* Tokens that a sequence of the same tenant and adapters has are not computed again; a newcomer
   waits for a beginning that is being computed, and takes over when that request ends (:mod:`.kv_cache`).
7. *A full cache.* What is parked goes first; then whoever is due last gives up its cells, to come back later, from a
   copy where that pays. A tenant that holds more than its share of cells gives way, each of its tasks once, to one that
   wants less than its own and is behind it. Only a task that the cache cannot hold by itself fails.
8. *No starvation.* Whoever is due first of all that run keeps its cells, but once at most (7), so there is always
   progress; and all that comes is due after it in time (4). A task that has a token has the next within the pause of
   its class, its adapter's (:mod:`.adapter_turns`) and two rounds, unless its tenant is ahead or it gave up its cells.
9. *Cost.* A step looks at running tasks only, whatever waits.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import Final

from plugsky.engine.scheduling.adapter_turns import AdapterTurns
from plugsky.engine.scheduling.fairness import Accounts
from plugsky.engine.scheduling.kv_cache import KvCache
from plugsky.engine.scheduling.pace import Pace
from plugsky.engine.scheduling.plan import Chunk, Op, Plan
from plugsky.engine.scheduling.prefix import Resident, TokenBuffer
from plugsky.engine.scheduling.tasks import COST, LEVELS, WAITS_US, Limits, QueueFullError, Run, Task
from plugsky.engine.scheduling.turns import ByTenant, Turns
from plugsky.engine.scheduling.waiting import Tenant, WaitingLine

GROWTH: Final = 16
"""Cells kept free for each running task when another is admitted, so that a newcomer is not evicted at once."""
JOIN_MIN: Final = 16
"""Tokens from which waiting for somebody else's prefill beats computing them as well."""
CREDIT: Final = 64
"""Prompt tokens' worth of time that a tenant which was idle has in hand."""
CLAIM: Final = 256
"""Prompt tokens' worth of time that a tenant must be behind another to take cells from it."""


class Scheduler:
    """The tasks of one context."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.kv = KvCache(limits.cells, limits.sequences, limits.saved, limits.reuse, limits.spare)
        self.pace = Pace(limits.target_us, limits.alone_us, limits.batch, limits.first_us)
        self._accounts = Accounts()
        self._tenants: dict[str, Tenant] = {}
        self._runs: dict[int, Run] = {}
        self._running: list[Run] = []
        self._waiting: WaitingLine[Run] = WaitingLine()
        self._held: Run | None = None
        self._stirred = False
        self._deadlines: list[tuple[int, int]] = []
        self._hopeless: list[int] = []
        self._turns = Turns(limits, self.pace, self.kv)
        self._adapters = AdapterTurns()
        self._chosen = 0

    @property
    def running(self) -> int:
        """Tasks that have been admitted."""
        return len(self._running)

    @property
    def paused(self) -> int:
        """Admitted tasks that the latest plan had nothing of."""
        return max(0, len(self._running) - self._chosen)

    @property
    def waiting(self) -> int:
        """Tasks in the line, those sent back to it included."""
        return len(self._waiting)

    @property
    def waiting_by_class(self) -> tuple[int, int, int]:
        """The same: interactive, standard, batch."""
        interactive, standard, batch = self._waiting.by_level
        return interactive, standard, batch

    def add(self, task: Task, now_us: int) -> None:
        """Take on a task. Raises :class:`QueueFullError`."""
        if len(self._waiting) >= self.limits.queue:
            raise QueueFullError(self.limits.queue, of_tenant=False)
        tenant = self._tenants.get(task.tenant)
        if tenant is None:
            account = self._accounts.open(task.tenant, CREDIT * self.pace.believed.prefill)
            tenant = self._tenants[task.tenant] = Tenant(account)
        elif tenant.waiting >= self.limits.tenant_queue:
            raise QueueFullError(self.limits.tenant_queue, of_tenant=True)
        tenant.account.weight = max(1, task.weight)
        level = LEVELS[task.service_class]
        need_us = len(task.tokens) * self.pace.believed.prefill
        run = Run(task, tenant, level, now_us + WAITS_US[level] + int(need_us), task.ticket, TokenBuffer(task.tokens))
        run.score_from = task.score_from
        self._runs[task.ticket] = run
        if task.deadline_us is not None:
            heapq.heappush(self._deadlines, (task.deadline_us, task.ticket))
        self._wait(run)

    def append(self, ticket: int, token: int) -> None:
        """The token chosen for a task after a chunk with an output."""
        self._runs[ticket].tokens.append(token)

    def remove(self, ticket: int, *, keep: bool = True) -> None:
        """Forget a task. Its cells are parked, or given back at once if not ``keep``; see :meth:`take_ops`."""
        run = self._runs.pop(ticket)
        if run.is_waiting:
            self._waiting.leave(run)
        else:
            self._stop(run)
            if run.resident is not None:
                if keep:
                    self.kv.park(run.resident)
                else:
                    self.kv.drop(run.resident)
        self.kv.forget(ticket)
        if self._held is run:
            self._held = None
        self._stirred = True
        if run.tenant.idle:
            del self._tenants[run.task.tenant]
            self._accounts.close(run.task.tenant)

    def cached(self, ticket: int) -> int | None:
        """How many of its first tokens a task found in the cache; None before it is known."""
        return self._runs[ticket].cached

    def is_admitted(self, ticket: int) -> bool:
        """Whether a task is known and not in the line."""
        run = self._runs.get(ticket)
        return run is not None and not run.is_waiting

    def expired(self, now_us: int) -> list[int]:
        """Tasks whose deadline has passed, for the caller to remove. Each is told once."""
        tickets = []
        while self._deadlines and self._deadlines[0][0] <= now_us:
            _, ticket = heapq.heappop(self._deadlines)
            if ticket in self._runs:
                tickets.append(ticket)
        return tickets

    def hopeless(self) -> list[int]:
        """Tasks that the cache cannot hold even alone, for the caller to remove. Each is told once."""
        tickets, self._hopeless = self._hopeless, []
        return [ticket for ticket in tickets if ticket in self._runs]

    def take_ops(self) -> tuple[Op, ...]:
        """What was decided since the last plan: to be carried out before anything is computed."""
        return self.kv.take_ops()

    def relieve(self) -> bool:
        """The cache is fuller than counted: give back what is parked, else the cells of one task. False: no more."""
        if self.kv.parked_sequences:
            self.kv.evict_all()
            return True
        victim = self._victim(self._running)
        if victim is None:
            return False
        self._suspend(victim)
        return True

    def plan(self, now_us: int) -> Plan:
        """The next step; no chunks when there is nothing to compute. Follow it with :meth:`commit`."""
        self._place_joined()
        self._admit()
        chunks = self._select(now_us)
        while not chunks:
            holders = [run for run in self._running if run.resident is not None]
            if not holders:
                break
            victim = self._victim(holders)
            if victim is None:
                self._hopeless.append(holders[0].ticket)
                break
            self._suspend(victim)
            self._place_joined()
            chunks = self._select(now_us)
        if chunks:
            self.kv.clear_away()
            self.kv.compact()
        self._chosen = len(chunks)
        return Plan(self.kv.take_ops(), tuple(chunks), self._adapters.adapter)

    def commit(self, chunks: Sequence[Chunk], t_us: int) -> list[int]:
        """One batch of ``chunks`` was computed in ``t_us``; the µs that each of them is charged: ``t_us`` together.

        Raises :class:`~plugsky.engine.scheduling.cells.NoCellsError` for chunks that no plan gave.
        """
        runs = [self._runs[chunk.ticket] for chunk in chunks]
        parts = [(run.held(), len(chunk.tokens)) for run, chunk in zip(runs, chunks, strict=True)]
        self.kv.extend(parts)
        decode = sum(count == 1 for _, count in parts)
        prefill = sum(count for _, count in parts) - decode
        prices = self.pace.prices(decode, prefill, t_us)
        tenants = [run.tenant for run in runs]
        basic = prices.step / max(1, len(set(tenants)))
        charges, spent = [], 0.0
        for run, (_, count) in zip(runs, parts, strict=True):
            us = basic / tenants.count(run.tenant) + (prices.decode if count == 1 else prices.prefill * count)
            run.tenant.account.charge(us * COST[run.level])
            charges.append(round(spent + us) - round(spent))
            spent += us
            run.advance()
        if runs and t_us > 0:
            self._adapters.charge(t_us)
            if chunks[0].tokens[0] >= 0:  # an image's time says nothing of a token's
                self.pace.learn(decode, prefill, t_us)
        self._accounts.raise_level(min((run.tenant.account.served for run in self._running), default=0.0))
        return charges

    def charge(self, ticket: int, t_us: int) -> None:
        """A task took ``t_us`` more, beside what its batches took."""
        run = self._runs[ticket]
        run.tenant.account.charge(t_us * COST[run.level])

    def pin(self, ticket: int) -> Resident:
        """A task with ``pin`` was computed: keep its cells until :meth:`unpin` and forget the task."""
        run = self._runs[ticket]
        resident = run.held()
        self.kv.pin(resident)
        run.resident = None
        self.remove(ticket)
        return resident

    def unpin(self, resident: Resident) -> None:
        """Give back a pinned beginning."""
        self.kv.drop(resident)
        self._stirred = True

    # -- who comes in ------------------------------------------------------------------------------------------------

    def _wait(self, run: Run) -> None:
        self._waiting.add(run)
        self._stirred = True

    def _admit(self) -> None:
        if not self._stirred and self._held is None:
            return
        self._stirred = False
        while True:
            run = self._held if self._held is not None else self._waiting.first()
            if run is None or not self._has_place(run):
                return
            if not self._fits(run) and not self._claim(run):
                self._held = run
                if not self._running:
                    self._hopeless.append(run.ticket)
                return
            self._held = None
            self._waiting.leave(run)
            run.tenant.running += 1
            self._running.append(run)
            self._place(run)

    def _has_place(self, run: Run) -> bool:
        joined = sum(other.owner is not None for other in self._running)
        if self.kv.sequences_left <= joined:
            return False
        if len(self._running) < self.limits.places:
            return True
        if not run.tenant.running or run.tenant.running + 1 < max(other.tenant.running for other in self._running):
            return True
        return len(self._running) < 2 * self.limits.places and any(o.level > run.level for o in self._running)

    def _fits(self, run: Run) -> bool:
        match = self.kv.match(self._roots(run), run.tokens, self._most(run))
        need = run.length - max(match.ready, match.promised) + self.kv.cost(match)
        if not self._running:
            return need <= self.kv.available
        promised = sum(other.left() + GROWTH for other in self._running)
        return promised + need + GROWTH <= self.kv.available

    def _claim(self, run: Run) -> bool:
        """Make room for a tenant that wants less than its share of cells, from one that holds more than its own."""
        while True:
            held = {run.tenant: run.length + GROWTH}
            for other in self._running:
                held[other.tenant] = held.get(other.tenant, 0) + other.length + GROWTH
            share = self.limits.cells // len(held)
            greatest = max(held, key=lambda tenant: held[tenant])
            behind = greatest.account.served - run.tenant.account.served
            if held[run.tenant] > share or held[greatest] <= share or behind < CLAIM * self.pace.believed.prefill:
                return False
            able = [other for other in self._running if other.tenant is greatest and not other.gave_way]
            victim = self._victim(able, spare=0)
            if victim is None:
                return False
            victim.gave_way = True
            self._suspend(victim)
            self._place_joined()
            if self._fits(run):
                return True

    def _most(self, run: Run) -> int:
        """How many tokens may be taken from others: one is always computed, and those to score or put back are too."""
        tail = self.kv.tail(run.ticket)
        bounds = [run.length - 1, run.score_from, tail and tail[0]]
        return min(bound for bound in bounds if bound is not None)

    def _roots(self, run: Run) -> tuple[tuple[str, ...], ...]:
        public = ("public", run.task.adapter)
        return (public,) if run.task.pin else (("tenant", run.task.tenant, run.task.adapter), public)

    def _place(self, run: Run) -> None:
        """Give an admitted task its sequence, or have it wait for one that computes its beginning."""
        roots = self._roots(run)
        match = self.kv.match(roots, run.tokens, self._most(run))
        if match.owner is not None and match.promised - match.ready >= JOIN_MIN:
            run.owner, run.promised = match.owner, match.promised
            for other in self._running:
                if other.resident is match.owner:
                    other.due = min(other.due, run.due)
            return
        run.owner = None
        run.resident = self.kv.enter(roots[0], run.tokens, match, self._most(run))
        if run.cached is None:
            run.cached = run.resident.computed

    def _place_joined(self) -> None:
        for run in self._running:
            owner = run.owner
            if owner is not None and (not owner.running or owner.computed >= run.promised):
                self._place(run)

    def _suspend(self, run: Run) -> None:
        """Send a task back to the line; what it has computed is saved or lost."""
        if run.resident is not None:
            self.kv.forget(run.ticket)
            self.kv.suspend(run.ticket, run.resident)
        run.resident = run.owner = None
        self._stop(run)
        self._wait(run)

    def _stop(self, run: Run) -> None:
        self._running.remove(run)
        run.tenant.running -= 1
        self._waiting.refresh(run.tenant)

    def _victim(self, runs: Iterable[Run], spare: int = 1) -> Run | None:
        """Whoever is due last, unless no more than ``spare`` are left."""
        runs = list(runs)
        return max(runs, key=lambda run: (run.due, run.ticket)) if len(runs) > spare else None

    # -- what is computed --------------------------------------------------------------------------------------------

    def _select(self, now_us: int) -> list[Chunk]:
        while True:
            ready, filling = self._ready()
            chosen = self._turns.decoding(ready, filling)
            if len(chosen) <= self.kv.available:
                break
            victim = self._victim(self._running)
            if victim is None:
                return []
            self._suspend(victim)
            self._place_joined()
        for run in chosen:
            run.latest_us = now_us
        chunks = self._turns.chunks(chosen, filling, watched=self._adapters.watched)
        self.kv.make_room(sum(len(chunk.tokens) for chunk in chunks))
        return chunks

    def _ready(self) -> tuple[ByTenant, ByTenant]:
        """Who of the adapter whose turn it is can decode, and who has a prompt to compute."""
        adapter = self._adapters.choose(self._running)
        ready: ByTenant = {}
        filling: ByTenant = {}
        for run in self._running:
            resident = run.resident
            if resident is None or run.task.adapter != adapter:
                continue
            tail = self.kv.tail(run.ticket)
            if tail is not None and tail[0] == resident.computed and self.kv.make_room(tail[1] - tail[0]):
                self.kv.resume(run.ticket, resident)
                tail = None
            if tail is None and run.left() == 1 and run.score_from is None:
                ready.setdefault(run.tenant, []).append(run)
            elif tail is None or tail[0] > resident.computed:
                filling.setdefault(run.tenant, []).append(run)
        return ready, filling
