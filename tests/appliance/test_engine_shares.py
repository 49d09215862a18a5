"""Shares and waits on a simulated clock, over random loads and those that would shut somebody out."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from appliance.simulated_machine import Machine, jain
from plugsky.engine.scheduling.adapter_turns import TURN_US
from plugsky.engine.scheduling.pace import FIRST
from plugsky.engine.scheduling.scheduler import CREDIT
from plugsky.engine.scheduling.tasks import PAUSE_US

COSTS = st.fixed_dictionaries(
    {"step": st.integers(500, 20_000), "decode": st.integers(200, 10_000), "prefill": st.integers(50, 5_000)}
)
FEW = settings.default.max_examples // 10
SERVICE = st.sampled_from(["interactive", "standard", "batch"])


def again_and_again(machine, tenants, prompt, answer, steps):
    """So many steps in which each of ``tenants`` sends its next request when the last one has ended."""
    latest = {tenant: machine.send(tenant, prompt, answer) for tenant in tenants}
    for _ in range(steps):
        for tenant, course in latest.items():
            if course.ended is not None:
                latest[tenant] = machine.send(tenant, prompt, answer)
        machine.step()


@given(costs=COSTS, prompt=st.integers(5, 400), answer=st.integers(40, 200), many=st.integers(2, 50))
@settings(max_examples=FEW, deadline=None)
def test_many_requests_get_a_tenant_no_more_than_one_does(costs, prompt, answer, many):
    machine = Machine(**costs)
    for _ in range(many):
        machine.send("a", prompt, answer)
    four = [machine.send(tenant, prompt, answer) for tenant in "bcde"]
    while all(course.ended is None for course in four):
        machine.step()
    shares = [machine.service[tenant] for tenant in "abcde"]
    slack = 2 * CREDIT * max(costs["prefill"], FIRST[2]) + max(t_us for t_us, _, _ in machine.steps)
    assert jain(shares) >= 0.95 or max(shares) - min(shares) <= slack, "but for what a tenant may be ahead in all"


@given(costs=COSTS, weights=st.lists(st.integers(1, 4), min_size=2, max_size=4), prompt=st.integers(5, 100))
@settings(max_examples=FEW, deadline=None)
def test_weights_are_the_shares_of_tenants_that_have_enough_to_do(costs, weights, prompt):
    machine = Machine(**costs)
    for number, weight in enumerate(weights):
        for _ in range(40):
            machine.send(str(number), prompt, 200, weight=weight)
    for _ in range(400):
        machine.step()
    assume(all(course.ended is None for course in list(machine.courses.values())[-1:]))
    prices = machine.scheduler.pace.believed  # steps that are all alike do not tell a step's price from its tokens'
    assume(4 * prices.decode >= prices.step)  # else a step costs nearly the same for whoever has a token in it
    per_weight = [machine.service[str(number)] / weight for number, weight in enumerate(weights)]
    assert jain(per_weight) >= 0.95


def test_coming_again_at_once_gets_nobody_more_than_a_share():
    machine = Machine()
    for _ in range(20):
        machine.send("steady", 100, 200)
    machine.step()
    again_and_again(machine, ["again"], 30, 4, 600)
    assert 0.4 <= machine.service["again"] / sum(machine.service.values()) <= 0.6


def test_a_tenant_who_is_ahead_is_not_shut_out_by_those_who_come_again_at_once():
    machine = Machine(places=8)
    machine.until(*(machine.send("first", 400, 4) for _ in range(8)))
    late = machine.send("first", 20, 4)
    again_and_again(machine, [f"again-{number}" for number in range(24)], 20, 4, 300)
    assert late.ended is not None


def test_a_tenant_with_nothing_running_gets_in_when_every_other_has_one_long_answer_running():
    machine = Machine(places=4)
    for tenant in "abcd":
        machine.send(tenant, 20, 2000)
    for _ in range(20):
        machine.step()
    newcomer = machine.send("e", 20, 8)
    machine.until(newcomer)
    assert newcomer.first < 1_000_000
    assert not any(course.ended for course in machine.courses.values() if course is not newcomer)


def test_room_is_made_as_soon_as_its_holder_is_ahead_enough():
    machine = Machine(cells=1200)
    for _ in range(2):
        machine.send("a", 450, 150)
    for _ in range(20):
        machine.step()
    small = machine.send("b", 320, 4)
    machine.step()
    assert not machine.scheduler.is_admitted(3)
    machine.until(small)
    assert not any(course.ended for course in machine.courses.values() if course.tenant == "a")
    machine.run()


def test_a_full_cache_takes_from_who_is_due_last_which_in_time_is_no_longer_the_lowest_class():
    machine = Machine()
    machine.send("a", 20, 4000, service_class="batch")
    while machine.now < 10_000_000:
        machine.step()
    machine.send("a", 20, 4000, service_class="interactive")
    machine.step()
    machine.scheduler.relieve()
    assert [machine.scheduler.is_admitted(ticket) for ticket in (1, 2)] == [False, True]
    while machine.now < 40_000_000:
        machine.step()
    machine.send("a", 20, 4000, service_class="interactive")
    machine.step()
    machine.scheduler.relieve()
    assert [machine.scheduler.is_admitted(ticket) for ticket in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("saved", [0, 1 << 15])
def test_a_batch_request_ends_though_the_cache_is_always_too_small_for_those_above_it(saved):
    machine = Machine(cells=400, places=8, saved=saved)
    batch = machine.send("a", 100, 120, service_class="batch")
    while batch.ended is None and machine.now < 300_000_000:
        while machine.scheduler.waiting + machine.scheduler.running < 8:
            machine.send("a", 20, 100, service_class="interactive")
        machine.step()
    assert batch.ended is not None


@given(
    costs=COSTS,
    load=st.lists(
        st.tuples(
            st.integers(0, 30), st.sampled_from("abc"), st.integers(1, 300), st.integers(1, 60), SERVICE, st.booleans()
        ),
        min_size=2,
        max_size=30,
    ),
    places=st.integers(1, 6),
)
@settings(deadline=None)
def test_nobody_who_has_a_token_waits_long_for_the_next(costs, load, places):
    machine = Machine(places=places, **costs)
    for pause, tenant, prompt, answer, service_class, adapted in load:
        for _ in range(pause):
            machine.step()
        machine.send(tenant, prompt, answer, service_class=service_class, adapter="x" * adapted)
    machine.run()
    longest = max(t_us for t_us, _, _ in machine.steps)
    rounds = 2 * -(-len(load) // places) + 2
    turn = 8 * (TURN_US + longest)  # of an adapter with a sixth of the time, beside another
    bound = PAUSE_US[2] + turn + rounds * longest + 3 * CREDIT * costs["prefill"]
    assert max((gap for course in machine.courses.values() for gap in course.gaps), default=0) <= bound


@given(
    costs=COSTS,
    load=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=20),
)
@settings(deadline=None)
def test_what_requests_are_charged_is_what_the_steps_took(costs, load):
    machine = Machine(**costs)
    for tenant, prompt, answer in load:
        machine.send(tenant, prompt, answer)
    machine.run()
    assert sum(course.service for course in machine.courses.values()) == sum(t_us for t_us, _, _ in machine.steps)
