"""What tenants, classes and prompts get of a machine, told on a simulated clock."""

import pytest

from appliance.simulated_machine import Machine, jain
from plugsky.engine.scheduling.fairness import REMEMBERED, Accounts
from plugsky.engine.scheduling.tasks import QueueFullError

SLOW = {"step": 2500, "decode": 8000, "prefill": 4600}
FAST = {"step": 20_000, "decode": 300, "prefill": 60}
"""A machine on which batching is nearly free."""
FOUR = ("b", "c", "d", "e")


def five_tenants(machine, many, prompt, answer):
    """One tenant with ``many`` requests, sent first, beside four with one each: those of the four."""
    for _ in range(many):
        machine.send("a", prompt, answer)
    return [machine.send(tenant, prompt, answer) for tenant in FOUR]


def test_short_prompts_are_completed_in_one_step_each_beside_long_ones():
    machine = Machine(step=2500, decode=5100, prefill=3600)
    machine.send("long", 1500, 16)
    streams = [machine.send(f"stream-{number}", 10, 200) for number in range(6)]
    for _ in range(20):
        machine.step()
    chats = []
    for number in range(5):
        chats.append(machine.send(f"chat-{number}", 40, 8))
        before = len(machine.steps)
        while not chats[-1].times:
            machine.step()
        assert len(machine.steps) - before <= 3
        machine.until(chats[-1])
    assert max(chat.first for chat in chats) < 700_000
    assert max(gap for stream in streams for gap in stream.gaps) <= 350_000


@pytest.mark.parametrize("costs", [SLOW, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize(("prompt", "answer"), [(50, 64), (200, 32), (400, 100), (20, 200)])
def test_one_tenant_with_fifty_requests_gets_no_more_than_four_with_one_each(costs, prompt, answer):
    alone = Machine(**costs)
    expected = five_tenants(alone, 1, prompt, answer)
    alone.until(*expected)
    machine = Machine(**costs)
    four = five_tenants(machine, 50, prompt, answer)
    while all(course.ended is None for course in four):
        machine.step()
    assert jain([machine.service[tenant] for tenant in ("a", *FOUR)]) >= 0.95
    machine.until(*four)
    for course, before in zip(four, expected, strict=True):
        assert course.ended <= 1.15 * before.ended
    machine.run()


def test_a_tenant_alone_has_all_places():
    machine = Machine()
    for _ in range(50):
        machine.send("a", 20, 100)
    for _ in range(60):
        machine.step()
    assert machine.steps[-1][1] == 16


def test_weights_share_compute_time():
    machine = Machine()
    for _ in range(20):
        machine.send("light", 30, 200)
        machine.send("heavy", 30, 200, weight=3)
    for _ in range(400):
        machine.step()
    assert machine.service["heavy"] / machine.service["light"] == pytest.approx(3, rel=0.1)


def test_a_newcomer_takes_a_place_and_who_made_way_goes_on_where_it_was():
    machine = Machine(places=4)
    old = [machine.send("a", 30, 60) for _ in range(8)]
    for _ in range(10):
        machine.step()
    new = machine.send("b", 30, 10)
    machine.until(new)
    assert machine.scheduler.running >= 4
    assert new.first < 1_500_000
    assert max(max(course.gaps, default=0) for course in old) < 1_000_000, "nobody stands still for long"
    machine.run()
    assert sum(prefill for _, _, prefill in machine.steps) == 9 * 30, "nothing was computed twice"


def test_a_stream_goes_on_while_its_tenant_has_prompts_to_compute():
    machine = Machine()
    stream = machine.send("a", 30, 300)
    machine.send("b", 30, 300)
    for _ in range(30):
        machine.step()
    other = machine.send("a", 400, 4)
    machine.until(other)
    assert max(stream.gaps) <= 500_000


def test_short_chats_do_not_wait_for_long_prompts():
    machine = Machine(**SLOW)
    long = [machine.send("a", 1500, 8) for _ in range(4)]
    for _ in range(5):
        machine.step()
    chats = []
    for _ in range(6):
        chats.append(machine.send("a", 20, 16))
        for _ in range(20):
            machine.step()
    machine.until(*long, *chats)
    assert max(chat.first for chat in chats) < 2_000_000
    assert max(gap for chat in chats for gap in chat.gaps) < 500_000


@pytest.mark.parametrize("costs", [SLOW, FAST, {"step": 5000, "decode": 20_000, "prefill": 15_000}])
def test_steps_beside_decoding_tasks_hold_the_target(costs):
    machine = Machine(**costs)
    for _ in range(4):
        machine.send("a", 40, 400)
    for _ in range(40):
        machine.step()
    machine.send("a", 1500, 1)
    before = len(machine.steps)
    for _ in range(100):
        machine.step()
    mixed = sorted(t_us for t_us, decode, prefill in machine.steps[before:] if decode and prefill)
    assert mixed[len(mixed) * 99 // 100] <= 500_000
    if costs is not SLOW:
        return
    assert mixed[len(mixed) // 2] == pytest.approx(100_000, rel=0.15), "and use it"


def test_a_long_prompt_gets_through_a_stream_of_short_ones():
    machine = Machine()
    long = machine.send("a", 1500, 4)
    while long.ended is None and machine.now < 200_000_000:
        if machine.scheduler.waiting + machine.scheduler.running < 12:
            machine.send("a", 40, 4)
        machine.step()
    assert long.ended is not None


def test_classes_come_in_their_order_and_the_lowest_in_time():
    machine = Machine(places=2)
    for _ in range(2):
        machine.send("a", 100, 50, service_class="batch")
    batch = [machine.send("a", 100, 20, service_class="batch") for _ in range(2)]
    standard = [machine.send("a", 100, 20) for _ in range(2)]
    interactive = [machine.send("a", 100, 20, service_class="interactive") for _ in range(2)]
    machine.run()
    assert max(c.first for c in interactive) < min(c.first for c in standard)
    assert max(c.first for c in standard) < min(c.first for c in batch)


def test_a_batch_request_is_not_starved_by_interactive_ones():
    machine = Machine(places=2)
    batch = machine.send("a", 100, 20, service_class="batch")
    while batch.ended is None and machine.now < 200_000_000:
        if machine.scheduler.waiting + machine.scheduler.running < 6:
            machine.send("a", 60, 20, service_class="interactive")
        machine.step()
    assert batch.ended is not None


def test_a_shared_beginning_is_computed_once_by_all_who_come_together():
    machine = Machine()
    system = list(range(900))
    courses = [machine.send("a", [*system, 10_000 + n, *range(5)], 4) for n in range(16)]
    machine.run()
    assert sum(prefill for _, _, prefill in machine.steps) <= 900 + 16 * 6
    assert sorted(course.cached for course in courses) == [0] + [900] * 15


def test_whoever_waits_for_a_beginning_takes_over_when_its_owner_goes():
    machine = Machine(alone_us=50_000)
    system = list(range(300))
    first = machine.send("a", [*system, 1, 2], 4)
    second = machine.send("a", [*system, 3, 4], 4)
    third = machine.send("a", [*system, 5, 6], 4)
    for _ in range(3):
        machine.step()
    machine.scheduler.remove(1, keep=False)
    first.ended = machine.now
    machine.until(second, third)
    assert sum(prefill for _, _, prefill in machine.steps) < 300 + 150
    assert 299 <= third.cached <= 300


def test_tenants_share_nothing():
    machine = Machine()
    system = list(range(300))
    machine.until(machine.send("a", [*system, 1], 2))
    other = machine.send("b", [*system, 1], 2)
    machine.until(other)
    assert other.cached == 0
    mine = machine.send("a", [*system, 1], 2)
    machine.until(mine)
    assert mine.cached == 300


def test_adapters_share_nothing_and_take_turns():
    machine = Machine()
    system = list(range(300))
    plain = machine.send("a", [*system, 1], 60)
    adapted = machine.send("a", [*system, 1], 60, adapter="x")
    machine.run()
    assert adapted.cached == 0
    assert abs(plain.ended - adapted.ended) < 2_000_000


def test_a_follow_up_computes_only_what_is_new():
    machine = Machine()
    first = machine.send("a", list(range(200)), 20)
    machine.until(first)
    told = [*range(200), *([1] * 19)]
    second = machine.send("a", [*told, 7, 8, 9], 4)
    machine.until(second)
    assert second.cached == 219


def test_a_full_cache_fails_nobody_and_saves_what_it_takes_away():
    machine = Machine(cells=600, places=8)
    for tenant in "abcd":
        for _ in range(2):
            machine.send(tenant, 60, 150)
    machine.run()
    assert sum(prefill for _, _, prefill in machine.steps) == 8 * 60, "what was taken away was put back"


def test_without_room_to_save_what_was_taken_away_is_computed_again():
    machine = Machine(cells=600, places=8, saved=0)
    for _ in range(8):
        machine.send("a", 60, 150)
    machine.run()
    assert sum(prefill for _, _, prefill in machine.steps) > 8 * 60


def test_a_tenant_that_fills_the_cache_gives_way_to_one_that_wants_little():
    machine = Machine(cells=2000)
    for _ in range(6):
        machine.send("a", 300, 200)
    for _ in range(60):
        machine.step()
    small = machine.send("b", 200, 4)
    while small.ended is None:
        assert machine.step()
    assert machine.scheduler.running
    assert sum(course.ended is not None for course in machine.courses.values()) == 1
    machine.run()


def test_a_request_that_did_not_fit_is_not_overtaken():
    machine = Machine(cells=1000)
    machine.send("a", 400, 100)
    for _ in range(10):
        machine.step()
    large = machine.send("b", 800, 4)
    machine.step()
    small = machine.send("b", 10, 4)
    while not machine.scheduler.is_admitted(2):
        assert not machine.scheduler.is_admitted(3)
        machine.step()
    machine.until(large, small)


def test_the_line_is_bounded_in_all_and_by_tenant():
    machine = Machine(queue=5, tenant_queue=3)
    for _ in range(3):
        machine.send("a", 10, 4)
    with pytest.raises(QueueFullError) as refusal:
        machine.send("a", 10, 4)
    assert (refusal.value.bound, refusal.value.of_tenant) == (3, True)
    machine.send("b", 10, 4)
    machine.send("c", 10, 4)
    with pytest.raises(QueueFullError) as refusal:
        machine.send("d", 10, 4)
    assert (refusal.value.bound, refusal.value.of_tenant) == (5, False)


def test_deadlines_are_told_once_and_only_of_those_who_are_still_here():
    machine = Machine()
    machine.send("a", 10, 4, deadline_us=500)
    machine.send("a", 10, 4, deadline_us=700)
    machine.scheduler.remove(2)
    assert machine.scheduler.expired(499) == []
    assert machine.scheduler.expired(800) == [1]
    assert machine.scheduler.expired(900) == []


def test_the_same_arrivals_give_the_same_steps():
    def play():
        machine = Machine()
        for n in range(20):
            machine.send("abc"[n % 3], 10 * n + 5, 10)
        machine.run()
        return machine.steps

    assert play() == play()


def test_idling_saves_up_no_more_than_the_credit():
    accounts = Accounts()
    busy = accounts.open("busy", 10.0)
    accounts.open("idle", 10.0)
    accounts.close("idle")
    busy.charge(1000.0)
    accounts.raise_level(1000.0)
    assert accounts.open("idle", 10.0).served == 990.0
    accounts.close("busy")
    assert accounts.open("busy", 10.0).served == 1000.0, "nor does leaving and coming back forgive"


def test_few_accounts_are_remembered_of_those_that_left():
    accounts = Accounts()
    accounts.open("stays", 0.0)
    for n in range(2 * REMEMBERED):
        accounts.open(str(n), 0.0).charge(5.0)
        accounts.close(str(n))
    assert len(accounts._closed) == REMEMBERED
