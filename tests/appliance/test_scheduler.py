"""The scheduler's guarantees, over random schedules and in the cases they were written for."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugsky.engine.scheduler import Limits, QueueFullError, Scheduler

SMALL = Limits(cells=64, batch=16, places=4, prefill=6, queue=8)


class Schedules(RuleBasedStateMachine):
    """Random arrivals, cancellations and steps, with the cache kept the way a context would keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SMALL)
        self.cells: dict[int, list[int]] = {place: [] for place in range(SMALL.places)}
        self.tokens: dict[int, list[int]] = {}
        self.want: dict[int, int] = {}
        self.next = 0

    @precondition(lambda self: self.scheduler.waiting < SMALL.queue)
    @rule(tenant=st.sampled_from("abc"), prompt=st.integers(1, 40), answer=st.integers(1, 24))
    def arrive(self, tenant, prompt, answer):
        self.next += 1
        self.tokens[self.next] = [self.next * 1000 + i for i in range(prompt)]
        self.want[self.next] = prompt + answer
        self.scheduler.add(self.next, tenant, self.tokens[self.next])

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def cancel(self, data):
        self.end(data.draw(st.sampled_from(sorted(self.tokens))))

    @rule(times=st.integers(1, 8))
    def step(self, times):
        for _ in range(times):
            self.one_step()

    def one_step(self):
        used_before = self.scheduler.used
        decoding = {ticket for ticket, tokens in self.tokens.items() if self.computed(ticket) == len(tokens) - 1 > 0}
        plan = self.scheduler.plan()
        for place in plan.cleared:
            self.cells[place].clear()
        total = sum(len(chunk.tokens) for chunk in plan.chunks)
        assert total <= SMALL.batch
        assert self.scheduler.used + total <= SMALL.cells
        assert plan.chunks or not self.tokens
        if not plan.cleared:
            assert self.scheduler.used == used_before
            assert decoding <= {chunk.ticket for chunk in plan.chunks if chunk.last}
        for chunk in plan.chunks:
            cells = self.cells[chunk.place]
            assert chunk.start == len(cells), "positions follow each other"
            cells += chunk.tokens
            assert cells == self.tokens[chunk.ticket][: len(cells)], "a place holds one task's tokens"
        self.scheduler.commit(plan.chunks)
        for chunk in plan.chunks:
            if chunk.last:
                self.choose(chunk.ticket)

    def choose(self, ticket):
        token = ticket * 1000 + len(self.tokens[ticket])
        self.tokens[ticket].append(token)
        if len(self.tokens[ticket]) == self.want[ticket]:
            self.end(ticket)
        else:
            self.scheduler.append(ticket, token)

    def end(self, ticket):
        place = self.scheduler.remove(ticket)
        if place is not None:
            self.cells[place].clear()
        del self.tokens[ticket]

    def computed(self, ticket):
        cells = next((cells for cells in self.cells.values() if cells and cells[0] == ticket * 1000), [])
        return len(cells)

    @invariant()
    def no_cell_is_leaked(self):
        assert self.scheduler.used == sum(map(len, self.cells.values())) <= SMALL.cells

    @invariant()
    def every_task_waits_or_runs(self):
        assert self.scheduler.running + self.scheduler.waiting == len(self.tokens)
        assert self.scheduler.running <= SMALL.places

    def teardown(self):
        for _ in range(2000):
            if not self.tokens:
                break
            self.one_step()
        assert not self.tokens, "everything that was accepted is finished"
        assert self.scheduler.used == 0
        assert not self.scheduler._served, "no memory of tenants that left"


Schedules.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSchedules = Schedules.TestCase


def run_step(scheduler: Scheduler) -> dict[int, int]:
    """One step: how many tokens each task got; tasks that finished their prompt choose a token."""
    plan = scheduler.plan()
    scheduler.commit(plan.chunks)
    for chunk in plan.chunks:
        if chunk.last:
            scheduler.append(chunk.ticket, 0)
    return {chunk.ticket: len(chunk.tokens) for chunk in plan.chunks}


def test_several_sequences_share_one_batch():
    scheduler = Scheduler(Limits(cells=1000))
    for ticket in range(8):
        scheduler.add(ticket, "a", [1, 2, 3])
    assert run_step(scheduler) == dict.fromkeys(range(8), 3)
    assert run_step(scheduler) == dict.fromkeys(range(8), 1)


def test_a_long_prompt_does_not_hold_up_one_that_decodes():
    scheduler = Scheduler(Limits(cells=10_000, batch=512, prefill=64))
    scheduler.add(1, "a", [1, 2])
    run_step(scheduler)
    scheduler.add(2, "b", [0] * 1000)
    for _ in range(15):
        assert run_step(scheduler) == {1: 1, 2: 64}


def test_a_prompt_alone_gets_the_whole_batch():
    scheduler = Scheduler(Limits(cells=10_000, batch=512, prefill=64))
    scheduler.add(1, "a", [0] * 1000)
    assert run_step(scheduler) == {1: 512}


def test_prefill_is_shared_by_tenant_and_short_prompts_leave_the_rest_to_long_ones():
    scheduler = Scheduler(Limits(cells=10_000, batch=100))
    scheduler.add(1, "a", [0] * 500)
    scheduler.add(2, "a", [0] * 500)
    scheduler.add(3, "b", [0] * 10)
    assert run_step(scheduler) == {3: 10, 1: 90}


def test_a_tenant_with_many_requests_leaves_places_to_the_others():
    scheduler = Scheduler(Limits(cells=10_000, places=4))
    for ticket in range(10):
        scheduler.add(ticket, "many", [1, 2])
    scheduler.add(10, "few", [1, 2])
    assert 10 in run_step(scheduler)


def test_a_freed_place_goes_to_the_tenant_that_holds_fewest():
    scheduler = Scheduler(Limits(cells=10_000, places=2))
    for ticket in range(4):
        scheduler.add(ticket, "many", [1, 2])
    run_step(scheduler)
    scheduler.add(4, "few", [1, 2])
    scheduler.remove(0)
    assert set(run_step(scheduler)) == {1, 4}


def test_a_head_of_the_queue_that_does_not_fit_is_waited_for():
    scheduler = Scheduler(Limits(cells=100, places=4))
    scheduler.add(1, "a", [0] * 50)
    run_step(scheduler)
    scheduler.add(2, "b", [0] * 90)
    scheduler.add(3, "c", [0] * 2)
    assert set(run_step(scheduler)) == {1}
    scheduler.remove(1)
    assert set(run_step(scheduler)) == {2}


def test_a_full_cache_sends_the_youngest_back_and_fails_nobody():
    scheduler = Scheduler(Limits(cells=40, places=4, queue=1))
    scheduler.add(1, "a", [0] * 4)
    scheduler.plan()
    scheduler.add(2, "b", [0] * 4)
    seen = []
    while {2} not in seen and {1} not in seen:
        seen.append(set(run_step(scheduler)))
    assert {1, 2} in seen
    assert seen[-1] == {1}, "the oldest goes on alone"
    scheduler.remove(1)
    assert set(run_step(scheduler)) == {2}, "the youngest is computed again"


def test_a_full_queue_says_its_bound():
    scheduler = Scheduler(Limits(cells=100, queue=2))
    scheduler.add(1, "a", [1])
    scheduler.add(2, "a", [1])
    with pytest.raises(QueueFullError) as refusal:
        scheduler.add(3, "a", [1])
    assert refusal.value.bound == 2
    scheduler.plan()
    scheduler.add(3, "a", [1])


def test_the_last_task_is_never_sent_back():
    scheduler = Scheduler(SMALL)
    scheduler.add(1, "a", [1, 2])
    scheduler.add(2, "a", [1, 2])
    run_step(scheduler)
    assert scheduler.relieve() == 1
    assert scheduler.relieve() is None


def test_the_same_arrivals_give_the_same_steps():
    def play() -> list[dict[int, int]]:
        scheduler = Scheduler(SMALL)
        for ticket, tenant in enumerate("abcab", start=1):
            scheduler.add(ticket, tenant, [0] * (ticket * 5))
        return [run_step(scheduler) for _ in range(20)]

    assert play() == play()
