"""Whose turn it is within one step: which tasks decode, and how much of whose prompt is computed.

It decides on what is admitted, by the tenants' accounts and by who is due; :mod:`.scheduler` states what comes of it.
The accounts are charged only once a step was measured; until then what a step is going to cost is counted in
:attr:`~plugsky.engine.scheduling.waiting.Tenant.virtual`.
"""

import heapq
from typing import Final

from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.kv_cache import KvCache
from plugsky.engine.scheduling.pace import Pace
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.scheduling.tasks import COST, Limits, Run
from plugsky.engine.scheduling.waiting import Tenant

LEAD: Final = 32
"""Prompt tokens' worth of time that a prompt under way may run ahead of its tenant's share."""

ByTenant = dict[Tenant, list[Run]]


class Turns:
    """The turns of one context."""

    def __init__(self, limits: Limits, pace: Pace, kv: KvCache) -> None:
        self._limits = limits
        self._pace = pace
        self._kv = kv
        self._tenants: list[Tenant] = []

    def decoding(self, ready: ByTenant, filling: ByTenant) -> list[Run]:
        """Who decodes: whoever is furthest behind, until that is somebody ahead of a tenant with nothing more to run.

        A tenant left out by this has one token all the same, or every other step while it has prompts to compute.
        """
        places = self._limits.places
        tenants = self._tenants = list({**ready, **filling})
        for tenant in tenants:
            tenant.virtual = tenant.account.served
        if len(tenants) == 1:
            runs = ready.get(tenants[0], [])
            return runs if len(runs) <= places else sorted(runs, key=Run.turn)[:places]
        price = self._pace.believed.decode
        floor = min((tenant.virtual for tenant in filling if tenant not in ready), default=float("inf"))
        queues = {tenant: sorted(runs, key=Run.turn, reverse=True) for tenant, runs in ready.items()}
        heap = [(tenant.virtual, number, tenant) for number, tenant in enumerate(queues)]
        heapq.heapify(heap)
        chosen: list[Run] = []
        picked: set[Tenant] = set()
        while heap and len(chosen) < places:
            _, number, tenant = heap[0]
            if tenant.virtual >= floor + price * COST[queues[tenant][-1].level]:
                break
            run = queues[tenant].pop()
            chosen.append(run)
            picked.add(tenant)
            tenant.virtual += price * COST[run.level] / tenant.account.weight
            if queues[tenant]:
                heapq.heapreplace(heap, (tenant.virtual, number, tenant))
            else:
                floor = min(floor, tenant.virtual)
                heapq.heappop(heap)
        for _, _, tenant in sorted(heap, key=lambda entry: entry[:2]):
            if tenant in picked or len(chosen) >= places:
                continue
            tenant.sat_out = tenant in filling and not tenant.sat_out
            if not tenant.sat_out:
                run = queues[tenant].pop()
                chosen.append(run)
                tenant.virtual += price * COST[run.level] / tenant.account.weight
        return chosen

    def chunks(self, chosen: list[Run], filling: ByTenant, *, watched: bool) -> list[Chunk]:
        """The step: a token of each that was chosen, then prompts within the budget.

        ``watched``: others, not in this step, wait for its end to decode.

        Prompts are those of tenants not ahead of the others. Half of the budget is for whoever is due first, the rest
        for whoever needs least: neither holds up the other. Beyond it go only prompts that are complete by that.
        Call it after :meth:`decoding`.
        """
        decoding = len(chosen) or int(watched)
        room = self._kv.available - len(chosen)
        budget = min(self._pace.budget(decoding), room)
        reach = min(self._pace.reach(decoding), room) - budget
        chunks = [self._chunk(run, 1) for run in chosen]
        if budget < 1 or not filling:
            return chunks
        takes: dict[Run, int] = {}
        outputs = self._limits.outputs
        image: Run | None = None
        left = [run for runs in filling.values() for run in runs]
        while able := self._able(left):
            if takes:
                run = min(able, key=lambda run: (run.level, run.left() - takes.get(run, 0), run.ticket))
                most = budget
            else:
                run = min(able, key=lambda run: (run.due, run.ticket))
                most = budget if len(able) == 1 else -(-budget // 2)
            before = takes.get(run, 0)
            need, rows = self._need(run, before, outputs)
            completed = before + need == run.left() and need <= most + reach
            take = need if completed else min(need, most)
            if need and self._at_image(run, before):
                # An image is a piece of work of its own: whole, whatever the budget, and one in a step.
                if image is not None or before or need > room:
                    left.remove(run)
                    continue
                image, take = run, need
            if take < 1 and need:
                break
            if take == need:
                left.remove(run)
            if take > 0:
                takes[run] = before + take
                room -= take
                budget = min(budget - min(take, most), room)
                reach = min(reach - max(0, take - most), room - budget)
                outputs -= max(0, take - (need - rows))
                run.tenant.virtual += take * self._pace.believed.prefill * COST[run.level] / run.tenant.account.weight
        return chunks + [self._chunk(run, take) for run, take in takes.items()]

    def _able(self, runs: list[Run]) -> list[Run]:
        """Those of tenants that are not ahead of the one furthest behind; a prompt under way may be a little."""
        if len(self._tenants) == 1:
            return runs
        floor = min(tenant.virtual for tenant in self._tenants)
        slack, lead = self._pace.believed.decode, LEAD * self._pace.believed.prefill
        return [
            run
            for run in runs
            if run.tenant.virtual
            < floor + slack * COST[run.level] + (lead if run.held().computed > (run.cached or 0) else 0.0)
        ]

    def _need(self, run: Run, taken: int, outputs: int) -> tuple[int, int]:
        """Tokens a task can use in one piece beyond ``taken``, and how many of them are scored: at most ``outputs``."""
        start, end = run.held().computed + taken, run.length
        tail = self._kv.tail(run.ticket)
        if tail is not None:
            end = tail[0]
        scored = end
        if run.score_from is not None:
            scored = max(start, run.score_from)
            end = min(end, scored + outputs)
        end = start + virtual.stretch(run.tokens.array(start, end))
        return end - start, max(0, end - scored)

    def _at_image(self, run: Run, taken: int) -> bool:
        """Whether the next token of a task beyond ``taken`` is an image's."""
        return run.tokens.at(run.held().computed + taken) < 0

    def _chunk(self, run: Run, take: int) -> Chunk:
        resident, tokens = run.held(), run.tokens
        start = resident.computed
        end = start + take
        outputs = int(end == tokens.length)
        if run.score_from is not None:
            outputs = max(0, end - max(start, run.score_from))
        pending = (tokens.last(),) if take == 1 and end == tokens.length else tokens.view(start, end)
        return Chunk(run.ticket, resident.seq, start, pending, outputs)
