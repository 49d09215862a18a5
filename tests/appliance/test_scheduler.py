"""The scheduler's guarantees over random schedules, against a cache that is followed cell by cell.

The clock goes as the steps take time, each order may come between any two steps, and what a stepper does with a batch
that llama.cpp refuses happens too: halves, failures, cells taken away half way through. In the end another scheduler
is asked the same and must answer the same. What is long in an engine (thresholds, waits, turns) is short here.
"""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.cell_context import CellContext
from appliance.recorded_scheduler import RecordedScheduler
from plugsky.engine.scheduling import adapter_turns, kv_cache, scheduler, tasks, turns
from plugsky.engine.scheduling.tasks import Limits, QueueFullError, Task

CLASSES = st.sampled_from(["interactive", "standard", "batch"])
BEGINNINGS = [(), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4), (9,) * 20]
ROOTS = 100
"""A cell's token is told as this many times the number of the root it was computed under, and the token."""
LONG = 3000
"""Steps in which everything that was accepted ends when nothing more comes."""
FLOODED = 1500
"""Steps in which a task ends however many of a higher class keep coming."""


@pytest.fixture(autouse=True, scope="module")
def _small_thresholds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "SAVE_MIN", 3)
        patch.setattr(kv_cache, "COMPACT_MIN", 6)
        patch.setattr(kv_cache, "MOVED_PER_STEP", 4)
        patch.setattr(kv_cache, "PARKED_MIN", 5)
        patch.setattr(scheduler, "JOIN_MIN", 3)
        patch.setattr(scheduler, "GROWTH", 2)
        patch.setattr(scheduler, "CREDIT", 4)
        patch.setattr(scheduler, "CLAIM", 8)
        patch.setattr(scheduler, "WAITS_US", (0, 10_000, 60_000))
        patch.setattr(tasks, "PAUSE_US", (0, 5_000, 20_000))
        patch.setattr(turns, "LEAD", 4)
        patch.setattr(adapter_turns, "TURN_US", 30_000)
        yield


class Schedules(RuleBasedStateMachine):
    """Random arrivals, cancellations, deadlines, refusals and steps of one engine."""

    @initialize(
        reuse=st.sampled_from(["prefix", "prefix", "prefix", "whole", "none"]),
        cells=st.integers(40, 90),
        sequences=st.integers(3, 9),
        places=st.integers(1, 5),
        saved=st.sampled_from([0, 12, 1000]),
        outputs=st.sampled_from([1, 3, 64]),
    )
    def begin(self, **bounds):
        self.limits = Limits(batch=16, queue=12, tenant_queue=8, **bounds)
        self.scheduler = RecordedScheduler(self.limits)
        self.context = CellContext(self.limits.cells, self.limits.sequences)
        self.now = 0
        self.next = 0
        self.tasks = {}
        self.tokens = {}
        self.want = {}
        self.scored = {}
        self.pins = {}
        self.roots = {}
        self.refusals = True

    @rule(
        tenant=st.sampled_from("abc"),
        start=st.sampled_from(BEGINNINGS),
        rest=st.lists(st.integers(1, 3), min_size=1, max_size=14),
        answer=st.integers(1, 12),
        service_class=CLASSES,
        adapter=st.sampled_from(["", "", "", "x", "y"]),
        scored=st.booleans(),
        deadline=st.sampled_from([None, None, None, 0, 5_000, 60_000]),
    )
    def arrive(self, tenant, start, rest, answer, scored, deadline, **options):
        tokens = [*start, *rest]
        if scored and len(tokens) > 1 and self.next % 4 == 0:
            options["score_from"], answer = len(start), answer if answer % 2 else 0
        if deadline is not None:
            options["deadline_us"] = self.now + deadline
        self.add(tenant, tokens, answer, weight=1 + (tenant == "c"), **options)

    @rule(tokens=st.lists(st.integers(1, 3), min_size=2, max_size=8), adapter=st.sampled_from(["", "x"]))
    def pin(self, tokens, adapter):
        pinned = sum(map(len, self.pins.values()))
        if pinned + len(tokens) <= 12 and len(self.pins) < 2 and not any(task.pin for task in self.tasks.values()):
            self.add("admin", tokens, 0, service_class="interactive", adapter=adapter, pin=True)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data):
        resident = data.draw(st.sampled_from(list(self.pins)))
        del self.pins[resident]
        self.scheduler.unpin(resident)

    def add(self, tenant, tokens, answer, **options):
        self.next += 1
        try:
            self.scheduler.add(Task(self.next, tenant, tokens, **options), self.now)
        except QueueFullError as error:
            full = sum(not self.scheduler.is_admitted(ticket) for ticket in self.tasks) >= error.bound
            self.refusals = self.refusals and (full or error.of_tenant)
            return
        self.tasks[self.next] = Task(self.next, tenant, tokens, **options)
        self.tokens[self.next] = list(tokens)
        self.want[self.next] = len(tokens) + answer
        if options.get("score_from") is not None:
            self.scored[self.next] = options["score_from"]

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
        self.apply()
        assert relieved or running <= 1
        assert not parked or self.scheduler.kv.map.parked == 0 or self.scheduler.running < running

    @rule(times=st.integers(1, 8), slow=st.integers(1, 5))
    def step(self, times, slow):
        for _ in range(times):
            self.one_step(slow)

    @rule(half=st.integers(0, 5), fault=st.sampled_from(["", "refused", "full"]))
    def step_in_parts(self, half, fault):
        self.one_step(half=half, fault=fault)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def flood(self, data):
        """Newcomers of the highest class want whatever becomes free: who was there before ends all the same."""
        ticket = data.draw(st.sampled_from(sorted(self.tasks)))
        for _ in range(FLOODED):
            for tenant in "abc":
                if ticket in self.tasks and len(self.tasks) < 12:
                    tokens = [*BEGINNINGS[self.next % 3], self.next % 3 + 1, self.next % 2 + 1]
                    self.add(tenant, tokens, self.next % 5 + 1, service_class="interactive")
            if ticket not in self.tasks:
                return
            self.one_step()
        raise AssertionError("nobody starves")

    def one_step(self, slow=1, half=0, fault=""):
        for ticket in self.scheduler.expired(self.now):
            assert self.tasks[ticket].deadline_us <= self.now
            self.end(ticket)
        assert all(task.deadline_us is None or task.deadline_us > self.now for task in self.tasks.values())
        plan = self.scheduler.plan(self.now)
        self.context.apply(plan.ops)
        hopeless = self.scheduler.hopeless()
        for ticket in hopeless:
            pinned = sum(map(len, self.pins.values()))
            assert len(self.tokens[ticket]) + pinned > self.limits.cells, "nothing is given up that there is room for"
            self.end(ticket)
        chunks = [chunk for chunk in plan.chunks if chunk.ticket in self.tasks]
        assert chunks or hopeless or not self.tasks, "there is always progress"
        self.check(chunks, plan.adapter)
        self.compute(chunks, half, fault, slow)

    def check(self, chunks, adapter):
        assert len({chunk.ticket for chunk in chunks}) == len(chunks)
        decoding = filling = outputs = 0
        for chunk in chunks:
            task, tokens = self.tasks[chunk.ticket], self.tokens[chunk.ticket]
            assert task.adapter == adapter
            end = chunk.start + len(chunk.tokens)
            assert list(chunk.tokens) == tokens[chunk.start : end]
            held = self.context.tokens(chunk.seq)
            assert [cell % ROOTS for cell in held] == tokens[: chunk.start], "what is shared is right to the token"
            known = {self.root(task), self.root(replace(task, pin=True))}
            assert {cell // ROOTS for cell in held} <= known, "and was computed for the same tenant, or for all"
            scored = self.scored.get(chunk.ticket)
            if scored is not None:
                assert chunk.start <= scored, "no row is left out"
                assert chunk.outputs == end - min(scored, end)
                outputs += chunk.outputs
            else:
                assert chunk.outputs == (end == len(tokens))
            if len(chunk.tokens) == 1 and end == len(tokens) and scored is None:
                decoding += 1
            else:
                filling += len(chunk.tokens)
        assert decoding <= self.limits.places
        assert outputs <= self.limits.outputs
        assert decoding + filling <= self.limits.batch
        assert filling <= self.scheduler.pace.reach(decoding)

    def compute(self, chunks, half, fault, slow):
        """As a stepper does: in one batch or, after a refusal, in parts, of which one may fail or find no room."""
        parts = [part for part in (chunks[:half], chunks[half:]) if part]
        for number, part in enumerate(parts):
            if number == len(parts) - 1 and fault == "refused":
                self.end(part[0].ticket, keep=False)
            elif number == len(parts) - 1 and fault == "full":
                self.relieve()
            left = [chunk for chunk in part if self.scheduler.is_admitted(chunk.ticket)]
            told = [replace(chunk, tokens=self.told(self.tasks[chunk.ticket], chunk.tokens)) for chunk in left]
            assert self.context.compute(told), "a plan fits into the cache"
            t_us = slow * 1000 + 500 * sum(len(chunk.tokens) for chunk in left) + self.next % 7 if left else 0
            self.now += t_us
            charges = self.scheduler.commit(left, t_us)
            assert sum(charges) == t_us, "all of a step is charged and nothing else"
            assert min(charges, default=0) >= 0
            for chunk in left:
                self.progress(chunk)

    def told(self, task, tokens):
        return [ROOTS * self.root(task) + token for token in tokens]

    def root(self, task):
        """The number under which cells of the task's root are told."""
        return self.roots.setdefault((None if task.pin else task.tenant, task.adapter), len(self.roots))

    def progress(self, chunk):
        ticket, tokens = chunk.ticket, self.tokens[chunk.ticket]
        end = chunk.start + len(chunk.tokens)
        if ticket in self.scored:
            self.scored[ticket] = max(self.scored[ticket], end)
        if end < len(tokens):
            return
        self.scored.pop(ticket, None)
        if self.tasks[ticket].pin:
            self.pins[self.scheduler.pin(ticket)] = self.told(self.tasks[ticket], tokens)
            self.forget(ticket)
        elif len(tokens) >= self.want[ticket]:
            self.end(ticket)
        else:
            tokens.append(ticket * 7 % 3 + 1)
            self.scheduler.append(ticket, tokens[-1])

    def end(self, ticket, *, keep=True):
        self.scheduler.remove(ticket, keep=keep)
        self.apply()
        self.forget(ticket)

    def forget(self, ticket):
        del self.tasks[ticket], self.tokens[ticket], self.want[ticket]
        self.scored.pop(ticket, None)

    def apply(self):
        self.context.apply(self.scheduler.take_ops())

    @precondition(lambda self: hasattr(self, "scheduler"))
    @invariant()
    def no_cell_is_leaked(self):
        self.apply()
        kv = self.scheduler.kv
        assert kv.map.used == self.context.used() <= self.limits.cells
        assert kv.map.highest == self.context.highest()
        assert kv.map.parked <= self.limits.cells // 2
        assert kv.saved == sum(map(len, self.context.saved.values())) <= self.limits.saved
        tails = {ticket for ticket in self.context.saved if ticket > 0}
        assert tails <= set(self.tasks)
        assert set(self.context.saved) - tails == kv.shelf.tickets()
        assert self.context.scratch not in self.context.sequences()

    @precondition(lambda self: hasattr(self, "scheduler"))
    @invariant()
    def what_is_pinned_stays(self):
        for resident, tokens in self.pins.items():
            assert self.context.tokens(resident.seq) == tokens

    @precondition(lambda self: hasattr(self, "scheduler"))
    @invariant()
    def every_task_waits_or_runs(self):
        assert self.scheduler.running + self.scheduler.waiting == len(self.tasks)
        assert sum(self.scheduler.waiting_by_class) == self.scheduler.waiting
        assert self.refusals, "nobody is refused while the line is not full"

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(LONG):
            if not self.tasks:
                break
            self.one_step()
        assert not self.tasks, "everything that was accepted is finished"
        self.scheduler.replay()
        for resident in self.pins:
            self.scheduler.unpin(resident)
        self.scheduler.kv.evict_all()
        self.apply()
        assert self.context.used() == self.scheduler.kv.map.used == self.scheduler.kv.map.live == 0
        assert self.scheduler.kv.sequences_left == self.limits.sequences
        assert not self.context.saved
        assert not self.scheduler._tenants, "no memory of tenants that left"
        assert not len(self.scheduler._accounts)


Schedules.TestCase.settings = settings(stateful_step_count=30, deadline=None)
TestSchedules = Schedules.TestCase
