"""Which texts share a batch: bounded, fair over tenants, and nobody starves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugsky.engine.scheduling.batcher import AGE_US, Batcher, Bounds, QueueFullError, Text


def filled(*texts, tokens=100, places=4, **bounds):
    """A batcher with ``(tenant, length, options)`` in its queue, tickets from 1."""
    batcher = Batcher(Bounds(tokens, places, **bounds))
    for ticket, (tenant, length, *options) in enumerate(texts, 1):
        batcher.add(Text(ticket, tenant, (7,) * length, 0, **(options[0] if options else {})))
    return batcher


def tickets(batch):
    return [text.ticket for text in batch]


def drained(batcher, us_per_token=10):
    """All batches to the end, by ticket."""
    batches = []
    while batch := batcher.plan(0):
        batcher.done(batch, us_per_token * sum(len(text.tokens) for text in batch))
        batches.append(tickets(batch))
    return batches


PLANS = {
    "what fits is computed together": ([("a", 10), ("a", 20), ("b", 5)], [[1, 2, 3]]),
    "no more texts than places": ([("a", 1)] * 6, [[1, 2, 3, 4], [5, 6]]),
    "no more tokens than a batch": ([("a", 60), ("a", 60), ("a", 30)], [[1], [2, 3]]),
    "a long text is not overtaken": ([("a", 50), ("a", 100), ("a", 1)], [[1], [2], [3]]),
    "interactive before standard before batch": (
        [("a", 60, {"service_class": "batch"}), ("a", 60), ("a", 60, {"service_class": "interactive"})],
        [[3], [2], [1]],
    ),
}


@pytest.mark.parametrize(("texts", "batches"), PLANS.values(), ids=PLANS)
def test_batches_hold_what_they_may(texts, batches):
    assert drained(filled(*texts)) == batches


def test_a_tenant_with_many_texts_does_not_hold_up_another():
    batcher = filled(*[("many", 50)] * 20, places=1)
    batcher.done(batcher.plan(0), 500)
    batcher.add(Text(21, "one", (7,) * 50, 0))
    served = []
    while 21 not in served:
        batch = batcher.plan(0)
        batcher.done(batch, 500)
        served += tickets(batch)
    assert len(served) <= 2


def test_twice_the_weight_is_twice_the_share():
    texts = [("light", 10)] * 40 + [("heavy", 10, {"weight": 2})] * 40
    batches = drained(filled(*texts, places=1))[:30]
    heavy = sum(ticket > 40 for (ticket,) in batches)
    assert heavy == pytest.approx(20, abs=1)


def test_who_was_idle_has_saved_up_nothing():
    batcher = filled(*[("busy", 10)] * 30, places=1)
    for _ in range(10):
        batcher.done(batcher.plan(0), 1000)
    for ticket in range(31, 41):
        batcher.add(Text(ticket, "late", (7,) * 10, 0))
    batches = drained(batcher, us_per_token=100)
    assert sum(ticket > 30 for (ticket,) in batches[:10]) == pytest.approx(5, abs=1)


def test_waiting_lifts_a_text_to_the_next_class():
    batcher = filled(("old", 60, {"service_class": "batch"}))
    batcher.add(Text(2, "new", (7,) * 60, 2 * AGE_US, "interactive"))
    assert tickets(batcher.plan(2 * AGE_US)) == [1]


def test_a_removed_text_is_not_computed_and_an_unknown_one_is_ignored():
    batcher = filled(("a", 10), ("a", 10))
    batcher.remove(1)
    batcher.remove(99)
    assert drained(batcher) == [[2]]


@pytest.mark.parametrize("bounds", [{"queued_texts": 2}, {"queued_tokens": 25}], ids=["texts", "tokens"])
def test_the_queue_is_bounded(bounds):
    batcher = filled(("a", 10), ("a", 10), **bounds)
    with pytest.raises(QueueFullError):
        batcher.add(Text(3, "a", (7,) * 10, 0))
    batcher.remove(1)
    batcher.add(Text(3, "a", (7,) * 10, 0))


TEXT = st.tuples(
    st.sampled_from("abc"),
    st.integers(1, 100),
    st.fixed_dictionaries(
        {"service_class": st.sampled_from(("interactive", "standard", "batch")), "weight": st.integers(1, 9)}
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, max_size=40), st.integers(0, 1000))
def test_every_text_is_computed_once_within_bounds(texts, us):
    batcher = filled(*texts)
    batches = drained(batcher, us)
    assert sorted(ticket for batch in batches for ticket in batch) == list(range(1, len(texts) + 1))
    for batch in batches:
        assert len(batch) <= 4
        assert sum(texts[ticket - 1][1] for ticket in batch) <= 100
    assert not len(batcher)
    assert not batcher._spent
    assert not batcher._tokens
