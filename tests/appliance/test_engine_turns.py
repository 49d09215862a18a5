"""Who has a token in a step, and whose prompt is computed: what must hold whatever the load, on a simulated clock."""

from appliance.simulated_machine import Machine
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.scheduling.scheduler import Scheduler
from plugsky.engine.scheduling.tasks import PAUSE_US, Limits, Task


def endless(machine, tenant, how_many, **task):
    """Requests that have work for as long as a test lasts."""
    return [machine.send(tenant, 20, 100_000, **task) for _ in range(how_many)]


def test_the_same_time_costs_a_higher_class_less():
    machine = Machine(step=500, places=4)
    endless(machine, "quick", 4, service_class="interactive")
    endless(machine, "usual", 4, service_class="standard")
    for _ in range(2000):
        machine.step()
    ratio = machine.service["quick"] / machine.service["usual"]
    assert 1.8 <= ratio <= 2.2, "a standard request's time counts twice that of an interactive one"


def test_places_go_around_among_the_requests_of_a_tenant_alone():
    machine = Machine(places=2)
    courses = endless(machine, "a", 2)
    for _ in range(10):
        machine.step()
    courses += endless(machine, "a", 2, service_class="interactive")
    for _ in range(400):
        machine.step()
    assert machine.scheduler.running == 4
    longest = max(t_us for t_us, _, _ in machine.steps)
    for course in courses:
        assert machine.now - course.times[-1] <= PAUSE_US[1] + 4 * longest
        assert max(course.gaps) <= PAUSE_US[1] + 4 * longest


def test_a_long_prompt_has_half_of_the_budget_however_many_short_ones_come():
    machine = Machine()
    endless(machine, "a", 1)
    machine.step()
    long, steps = machine.send("a", 1000, 1), 0
    while long.ended is None and steps < 1000:
        while machine.scheduler.waiting < 8:
            machine.send("a", 40, 1)
        machine.step()
        steps += 1
    half = machine.scheduler.pace.budget(1) / 2
    assert steps <= 2 * 1000 / half, "it is due as much later as it is long, and then has half of each step"


def test_what_is_scored_in_one_step_is_bounded_over_all_its_requests():
    scheduler = Scheduler(Limits(cells=1024, batch=256, outputs=8))
    texts = {ticket: list(range(ticket * 100, ticket * 100 + 30)) for ticket in (1, 2, 3)}
    for ticket, text in texts.items():
        scheduler.add(Task(ticket, "abc"[ticket - 1], text, score_from=0), 0)
    scored = dict.fromkeys(texts, 0)
    for _ in range(100):
        chunks = scheduler.plan(0).chunks
        if not chunks:
            break
        assert sum(chunk.outputs for chunk in chunks) <= 8
        for chunk in chunks:
            scored[chunk.ticket] += chunk.outputs
        scheduler.commit(chunks, 1000)
        for chunk in chunks:
            if ends(chunk, texts):
                scheduler.remove(chunk.ticket)
    assert scored == dict.fromkeys(texts, 30)


def ends(chunk: Chunk, texts):
    """Whether a text is computed with this chunk."""
    return chunk.start + len(chunk.tokens) == len(texts[chunk.ticket])
