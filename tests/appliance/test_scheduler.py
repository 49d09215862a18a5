"""The scheduler's guarantees over random schedules, against a cache that is followed cell by cell."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.cell_context import CellContext
from plugsky.engine import kv_cache, scheduler
from plugsky.engine.scheduler import Scheduler
from plugsky.engine.tasks import Limits, QueueFullError, Task

CLASSES = st.sampled_from(["interactive", "standard", "batch"])


@pytest.fixture(autouse=True, scope="module")
def _small_thresholds():
    """What is large in an engine, as small as the caches here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "SAVE_MIN", 3)
        patch.setattr(kv_cache, "COMPACT_MIN", 6)
        patch.setattr(kv_cache, "MOVED_PER_STEP", 4)
        patch.setattr(kv_cache, "PARKED_MIN", 5)
        patch.setattr(scheduler, "JOIN_MIN", 3)
        patch.setattr(scheduler, "GROWTH", 2)
        yield


class Schedules(RuleBasedStateMachine):
    """Random arrivals, cancellations, refusals and steps of one engine."""

    @initialize(
        reuse=st.sampled_from(["prefix", "prefix", "prefix", "whole", "none"]),
        cells=st.integers(40, 90),
        sequences=st.integers(3, 9),
        places=st.integers(1, 5),
        saved=st.sampled_from([0, 12, 1000]),
        outputs=st.sampled_from([1, 3, 64]),
    )
    def begin(self, reuse, cells, sequences, places, saved, outputs):
        self.limits = Limits(
            cells=cells,
            batch=16,
            places=places,
            sequences=sequences,
            saved=saved,
            outputs=outputs,
            reuse=reuse,
            queue=12,
            tenant_queue=8,
        )
        self.scheduler = Scheduler(self.limits)
        self.context = CellContext(cells, sequences)
        self.now = 0
        self.next = 0
        self.tasks = {}
        self.tokens = {}
        self.want = {}
        self.scored = {}
        self.pins = []
        self.refusals = True

    @rule(
        tenant=st.sampled_from("abc"),
        start=st.sampled_from([(), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4), (9,) * 20]),
        rest=st.lists(st.integers(1, 3), min_size=1, max_size=14),
        answer=st.integers(1, 12),
        service_class=CLASSES,
        adapter=st.sampled_from(["", "", "", "x"]),
        scored=st.booleans(),
    )
    def arrive(self, tenant, start, rest, answer, service_class, adapter, scored):
        self.next += 1
        tokens = [*start, *rest]
        score_from = len(start) if scored and len(tokens) > 1 and self.next % 4 == 0 else None
        task = Task(
            self.next, tenant, tokens, service_class, adapter=adapter, weight=1 + (tenant == "c"), score_from=score_from
        )
        self.add(task, len(tokens) + (0 if score_from is not None and answer % 2 else answer))

    @rule(tokens=st.lists(st.integers(1, 3), min_size=2, max_size=8), adapter=st.sampled_from(["", "x"]))
    def pin(self, tokens, adapter):
        if sum(len(resident.tokens.array(0, 99)) for resident in self.pins) + len(tokens) > 12 or len(self.pins) > 1:
            return
        if any(task.pin for task in self.tasks.values()):
            return
        self.next += 1
        self.add(Task(self.next, "admin", tokens, "interactive", adapter=adapter, pin=True), len(tokens))

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self):
        self.scheduler.unpin(self.pins.pop())

    def add(self, task, want):
        try:
            self.scheduler.add(task, self.now)
        except QueueFullError as error:
            full = sum(not self.scheduler.is_admitted(ticket) for ticket in self.tasks) >= error.bound
            self.refusals = self.refusals and (full or error.of_tenant)
            return
        self.tasks[task.ticket] = task
        self.tokens[task.ticket] = list(task.tokens)
        self.want[task.ticket] = want
        if task.score_from is not None:
            self.scored[task.ticket] = task.score_from

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), keep=st.booleans())
    def cancel(self, data, keep):
        ticket = data.draw(st.sampled_from(sorted(self.tasks)))
        self.end(ticket, keep=keep)

    @rule()
    def relieve(self):
        running = self.scheduler.running
        parked = self.scheduler.kv.map.parked
        relieved = self.scheduler.relieve()
        self.context.apply(self.scheduler.take_ops())
        assert relieved or running <= 1
        assert not parked or self.scheduler.kv.map.parked == 0 or self.scheduler.running < running

    @rule(times=st.integers(1, 8), slow=st.integers(1, 5))
    def step(self, times, slow):
        for _ in range(times):
            self.one_step(slow)

    def one_step(self, slow=1):
        self.now += 1000
        plan = self.scheduler.plan(self.now)
        self.context.apply(plan.ops)
        hopeless = self.scheduler.hopeless()
        for ticket in hopeless:
            self.end(ticket)
        chunks = [chunk for chunk in plan.chunks if chunk.ticket in self.tasks]
        total = sum(len(chunk.tokens) for chunk in chunks)
        assert total <= self.limits.batch
        assert len({chunk.ticket for chunk in chunks}) == len(chunks)
        assert chunks or hopeless or not self.tasks, "there is always progress"
        decoding = rows = 0
        for chunk in chunks:
            task, tokens = self.tasks[chunk.ticket], self.tokens[chunk.ticket]
            assert task.adapter == plan.adapter
            end = chunk.start + len(chunk.tokens)
            assert list(chunk.tokens) == tokens[chunk.start : end]
            assert self.context.tokens(chunk.seq) == tokens[: chunk.start], "what is shared is right to the token"
            scored = self.scored.get(chunk.ticket, len(task.tokens))
            if scored == len(task.tokens):
                decoding += len(chunk.tokens) == 1 and end == len(tokens)
                assert chunk.outputs == (end == len(tokens) and not task.pin)
            else:
                assert chunk.outputs == max(0, end - max(chunk.start, scored))
                assert chunk.start <= scored, "no row is left out"
                self.scored[chunk.ticket] = max(scored, end)
                rows += chunk.outputs
        assert rows <= self.limits.outputs
        assert decoding <= self.limits.places + 1
        assert self.context.compute(chunks), "a plan fits into the cache"
        self.scheduler.commit(chunks, 1000 * slow + 500 * total)
        for chunk in chunks:
            self.progress(chunk)

    def progress(self, chunk):
        ticket = chunk.ticket
        if chunk.start + len(chunk.tokens) < len(self.tokens[ticket]):
            return
        if self.tasks[ticket].pin:
            self.pins.append(self.scheduler.pin(ticket))
            self.forget(ticket)
        elif len(self.tokens[ticket]) >= self.want[ticket]:
            self.end(ticket)
        else:
            token = ticket * 7 % 3 + 1
            self.tokens[ticket].append(token)
            self.scheduler.append(ticket, token)

    def end(self, ticket, *, keep=True):
        self.scheduler.remove(ticket, keep=keep)
        self.context.apply(self.scheduler.take_ops())
        self.forget(ticket)

    def forget(self, ticket):
        del self.tasks[ticket], self.tokens[ticket], self.want[ticket]
        self.scored.pop(ticket, None)

    @invariant()
    def no_cell_is_leaked(self):
        if not hasattr(self, "scheduler"):
            return
        self.context.apply(self.scheduler.take_ops())
        kv = self.scheduler.kv
        assert kv.map.used == self.context.used() <= self.limits.cells
        assert kv.map.highest == self.context.highest()
        assert kv.map.parked <= self.limits.cells // 2
        assert kv.saved == sum(map(len, self.context.saved.values())) <= self.limits.saved
        tails = {ticket for ticket in self.context.saved if ticket > 0}
        assert tails <= set(self.tasks)
        assert set(self.context.saved) - tails == kv.shelf.tickets()
        assert self.context.scratch not in self.context.sequences()

    @invariant()
    def every_task_waits_or_runs(self):
        if hasattr(self, "scheduler"):
            assert self.scheduler.running + self.scheduler.waiting == len(self.tasks)
            assert sum(self.scheduler.waiting_by_class) == self.scheduler.waiting
            assert self.refusals, "nobody is refused while the line is not full"

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            if not self.tasks:
                break
            self.one_step()
        assert not self.tasks, "everything that was accepted is finished"
        while self.pins:
            self.scheduler.unpin(self.pins.pop())
        self.scheduler.kv.evict_all()
        self.context.apply(self.scheduler.take_ops())
        assert self.context.used() == self.scheduler.kv.map.used == 0
        assert not self.context.saved
        assert not self.scheduler._tenants, "no memory of tenants that left"
        assert not len(self.scheduler._accounts)


Schedules.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestSchedules = Schedules.TestCase
