"""Adapters take turns: fair to tenants however many adapters they use, and none waits for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.simulated_machine import Machine, jain
from plugsky.engine.scheduling.adapter_turns import TURN_US, AdapterTurns
from plugsky.engine.scheduling.fairness import Account
from plugsky.engine.scheduling.prefix import Resident, TokenBuffer
from plugsky.engine.scheduling.tasks import Run, Task
from plugsky.engine.scheduling.waiting import Tenant

STEP_US = 40_000
TENANTS = {name: Tenant(Account(name, 0.0, 0.0)) for name in "abc"}
WORK = st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "z"])), min_size=1, max_size=8)


def run_of(tenant, adapter):
    """An admitted task."""
    tokens = TokenBuffer([1])
    task = Task(1, tenant, (1,), adapter=adapter)
    return Run(task, TENANTS[tenant], 0, 0, 1, tokens, resident=Resident(0, None, tokens))


def runs_of(work):
    return [run_of(*pair) for pair in sorted(work)]


def shares_of(work):
    """What each adapter is due of the whole."""
    tenants = {tenant for tenant, _ in work}
    due = {}
    for tenant, adapter in work:
        due[adapter] = due.get(adapter, 0.0) + 1 / sum(one == tenant for one, _ in work)
    return {adapter: share / len(tenants) for adapter, share in due.items()}


def steps(turns, work, count, t_us=STEP_US):
    """Whose each step was."""
    served = []
    for _ in range(count):
        served.append(turns.choose(runs_of(work)))
        turns.charge(t_us)
    return served


@settings(deadline=None, max_examples=40)
@given(work=WORK, before=st.lists(st.tuples(WORK, st.integers(1, 20)), max_size=4))
def test_each_adapter_has_the_share_of_its_tenants_and_waits_no_longer_than_that_asks_for(work, before):
    turns = AdapterTurns()
    for earlier, count in before:
        steps(turns, earlier, count)
    steps(turns, work, 100)
    served = steps(turns, work, 800)
    turn_us = -(-TURN_US // STEP_US) * STEP_US
    for adapter, share in shares_of(work).items():
        assert served.count(adapter) / len(served) == pytest.approx(share, abs=0.03)
        longest = wait = 0
        for one in served:
            wait = 0 if one == adapter else wait + STEP_US
            longest = max(longest, wait)
        assert longest <= turn_us * (1 / share + len(shares_of(work)))


@settings(deadline=None)
@given(schedule=st.lists(st.tuples(WORK, st.integers(1, 200_000)), min_size=1, max_size=30))
def test_turns_are_only_for_adapters_with_work_and_follow_from_what_was_handed_in(schedule):
    twins = AdapterTurns(), AdapterTurns()
    for work, t_us in schedule:
        chosen = {turns.choose(runs_of(work)) for turns in twins}
        assert len(chosen) == 1
        assert chosen <= {adapter for _, adapter in work}
        for turns in twins:
            turns.charge(t_us)


def test_a_turn_is_not_broken_off_while_its_adapter_has_work():
    served = steps(AdapterTurns(), {("a", "x"), ("b", "y")}, 6, TURN_US // 3 + 1)
    assert served in (["x"] * 3 + ["y"] * 3, ["y"] * 3 + ["x"] * 3)


def test_an_adapter_that_comes_back_is_first_but_has_saved_nothing_up():
    turns = AdapterTurns()
    steps(turns, {("a", "")}, 1000, TURN_US)
    assert steps(turns, {("a", ""), ("b", "x")}, 4, TURN_US) == ["x", "", "x", ""]


def test_an_adapter_that_leaves_ahead_of_the_others_comes_back_ahead():
    turns = AdapterTurns()
    both = {("a", ""), ("b", "x")}
    steps(turns, both, 1)
    while turns.choose(runs_of(both)) != "x":
        turns.charge(STEP_US)
    turns.charge(20 * TURN_US)
    steps(turns, {("a", "")}, 1, TURN_US)
    assert steps(turns, both, 10, TURN_US) == [""] * 10


def test_a_tenant_with_many_adapters_gets_no_more_than_one_with_none():
    machine = Machine()
    for adapter in ("x", "y", "z"):
        machine.send("a", 50, 300, adapter=adapter)
    machine.send("b", 50, 300)
    for _ in range(300):
        machine.step()
    assert jain([machine.service["a"], machine.service["b"]]) > 0.98
    machine.run()


def test_an_adapter_of_a_tenant_that_is_ahead_still_moves():
    machine = Machine()
    adapted = machine.send("a", 50, 60, adapter="x")
    machine.send("a", 50, 2000)
    machine.send("b", 50, 2000)
    machine.until(adapted)
    assert max(adapted.gaps) < 1_000_000


def test_streams_of_other_adapters_stand_still_for_little_more_than_a_turn():
    machine = Machine()
    stream = machine.send("a", 30, 100)
    machine.until_first(stream)
    machine.send("b", 1500, 4, adapter="x")
    machine.until(stream)
    assert max(stream.gaps) <= 300_000, "a prompt under another adapter leaves the steps short"
    machine.run()
