"""Images in the scheduler: whole, one in a step, apart from text, never cut where a beginning is shared or saved."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.cell_context import CellContext
from plugsky.engine.scheduling import kv_cache, virtual
from plugsky.engine.scheduling.scheduler import Scheduler
from plugsky.engine.scheduling.tasks import Limits, Task

CAT, DOG = virtual.run(b"cat", 8), virtual.run(b"dog", 18)
"""Images, one of them longer than a batch."""
LIMITS = Limits(cells=90, batch=16, places=3, sequences=5)
PROMPTS = st.lists(st.sampled_from([(1, 2, 3, 4), (1, 2), (5,), CAT, CAT, DOG]), min_size=1, max_size=4)


@pytest.fixture(autouse=True, scope="module")
def _small_thresholds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "SAVE_MIN", 3)
        yield


class Runs:
    """A scheduler and the cells that follow its plans."""

    def __init__(self):
        self.scheduler, self.context = Scheduler(LIMITS), CellContext(LIMITS.cells, LIMITS.sequences)
        self.tokens = {}

    def add(self, ticket, tokens, tenant="a"):
        self.tokens[ticket] = list(tokens)
        self.scheduler.add(Task(ticket, tenant, list(tokens)), 0)

    def step(self):
        """One step; where the chunks of each ticket began and ended."""
        plan = self.scheduler.plan(0)
        self.context.apply(plan.ops)
        assert plan.chunks, "there is always progress"
        images = [chunk for chunk in plan.chunks if min(chunk.tokens) < 0]
        assert len(images) <= 1
        assert sum(len(chunk.tokens) for chunk in plan.chunks if chunk not in images) <= LIMITS.batch
        for chunk in plan.chunks:
            end = chunk.start + len(chunk.tokens)
            assert list(chunk.tokens) == self.tokens[chunk.ticket][chunk.start : end]
            assert self.context.tokens(chunk.seq) == self.tokens[chunk.ticket][: chunk.start]
            runs = list(virtual.images(chunk.tokens))
            assert runs == ([(0, tuple(chunk.tokens))] if chunk in images else []), "whole, and apart from text"
            assert chunk.outputs == (end == len(self.tokens[chunk.ticket]))
        for chunk in plan.chunks:
            assert self.context.compute([chunk])
            assert self.scheduler.commit([chunk], 1000) == [1000], "an image is charged to whoever sent it"
        for chunk in plan.chunks:
            if chunk.outputs:
                self.end(chunk.ticket)
        return {chunk.ticket: (chunk.start, chunk.start + len(chunk.tokens)) for chunk in plan.chunks}

    def end(self, ticket):
        self.scheduler.remove(ticket)
        self.context.apply(self.scheduler.take_ops())
        del self.tokens[ticket]


@settings(deadline=None)
@given(st.lists(st.tuples(PROMPTS, st.sampled_from("ab"), st.integers(0, 3)), min_size=1, max_size=12))
def test_whatever_prompts_with_images_come_each_is_computed_whole_and_all_end(arrivals):
    runs = Runs()
    for ticket, (parts, tenant, steps) in enumerate(arrivals):
        runs.add(ticket, [token for part in parts for token in part], tenant)
        for _ in range(steps):
            if runs.tokens:
                runs.step()
    for _ in range(500):
        if runs.tokens:
            runs.step()
    assert not runs.tokens


@pytest.mark.parametrize("saved", [False, True], ids=["parked", "in-host-memory"])
def test_a_prompt_that_ends_with_an_image_somebody_has_computes_that_image_again_whole(saved):
    runs, spans = Runs(), {1: [], 2: []}
    for ticket in (1, 2):
        runs.add(ticket, [1, 2, 3, 4, *CAT])
        while ticket in runs.tokens:
            spans[ticket].append(runs.step()[ticket])
        if saved:
            assert runs.scheduler.kv.make_room(LIMITS.cells)
    assert spans == {1: [(0, 4), (4, 12)], 2: [(4, 12)]}


def test_the_time_of_an_image_does_not_change_what_a_token_is_believed_to_cost():
    runs = Runs()
    runs.add(1, [*CAT, 1, 2])
    before = runs.scheduler.pace.believed
    runs.step()
    assert runs.scheduler.pace.believed == before
    runs.step()
    assert runs.scheduler.pace.believed != before
