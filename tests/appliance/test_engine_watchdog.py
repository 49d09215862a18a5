"""The watchdog: it knows a hung step from a slow one, from a machine that stood still, and from an idle engine."""

import pytest

from plugsky.engine.serving.watchdog import (
    FACTOR,
    FLOOR_S,
    HUNG_EXIT,
    TICK_S,
    UNMEASURED_S,
    Watchdog,
    how_an_engine_ended,
)


def seconds_until_it_hangs(dog, *, busy=True, most=100_000):
    for second in range(1, most):
        if dog.hangs(float(second), busy=busy):
            return second
    return None


@pytest.fixture
def dog():
    return Watchdog(batch=512, now=0.0)


def test_the_first_step_may_take_long(dog):
    assert seconds_until_it_hangs(dog) == UNMEASURED_S + 1


def test_the_bound_grows_with_the_slowest_step(dog):
    dog.heard(1_000_000, 512)
    dog.heard(30_000_000, 512)
    assert dog.bound_s == FLOOR_S + FACTOR * 30
    for _ in range(1000):
        dog.heard(1_000_000, 512)
    assert dog.bound_s == pytest.approx(FLOOR_S + FACTOR, rel=0.01)


def test_the_bound_grows_with_the_batch(dog):
    dog.heard(100_000, 1)
    assert dog.bound_s == pytest.approx(FLOOR_S + FACTOR * 0.1 * 512)


def test_a_report_is_a_sign_of_life(dog):
    for second in range(1, 10_000):
        assert not dog.hangs(float(second), busy=True)
        dog.heard(0, 0)


def test_an_engine_without_work_does_not_hang(dog):
    assert seconds_until_it_hangs(dog, busy=False) is None


def test_a_process_that_was_stopped_for_an_hour_has_waited_two_ticks(dog):
    assert not dog.hangs(3600.0, busy=True)
    assert dog.hangs(3601.0, busy=True) is False
    assert dog._waited == 2 * TICK_S + 1


def test_a_hung_step_is_named():
    assert how_an_engine_ended(HUNG_EXIT << 8) == "ended itself because a step did not end"
    assert how_an_engine_ended(9) == "was killed by SIGKILL"
