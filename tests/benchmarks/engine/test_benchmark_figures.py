"""What the benchmark of the engine computes from what it measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine import figures


@pytest.mark.parametrize(
    ("shares", "index"),
    [([5, 5, 5, 5], 1.0), ([1, 0, 0, 0], 0.25), ([2, 1], 0.9), ([0.1], 1.0)],
    ids=["all alike", "one has all", "one has twice as much", "alone"],
)
def test_fairness_is_one_when_all_have_the_same_and_falls_to_one_in_n(shares, index):
    assert figures.jain(shares) == pytest.approx(index)


@given(st.lists(st.integers(1, 1000), min_size=1), st.integers(1, 50))
def test_fairness_does_not_depend_on_the_unit(shares, unit):
    assert figures.jain(shares) == pytest.approx(figures.jain([unit * share for share in shares]))


def test_fairness_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nobody"):
        figures.jain([0, 0])


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1), (0.001, 1), (0.951, 96)]
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(share, value):
    assert figures.percentile(list(range(100, 0, -1)), share) == value


def test_a_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing"):
        figures.percentile([], 0.5)


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_round_counts_as_any():
    assert figures.median_ratio([10, 1, 30], [10, 2, 10]) == 1.0


def test_stolen_time_is_a_share_of_all_time_without_counting_guests_twice():
    before = "cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1 1\n"
    after = "cpu  140 0 110 730 0 0 0 120 90 0\ncpu0 1 1\n"
    assert figures.stolen(before, after) == pytest.approx(0.2)


def test_a_rate_counts_only_the_time_in_which_all_streams_flow():
    first = [(0.0, 1), (1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1)]
    second = [(2.0, 1), (3.0, 2), (4.0, 2), (5.0, 2)]
    assert figures.window_rate([first, second]) == pytest.approx(6 / 2.0)


def test_streams_that_never_flow_together_have_no_rate():
    with pytest.raises(ValueError, match="same time"):
        figures.window_rate([[(0.0, 1), (1.0, 1)], [(2.0, 1), (3.0, 1)]])


def test_service_is_what_arrived_by_a_time():
    assert figures.service({"a": [(1.0, 2), (2.0, 3)], "b": [(2.5, 9)]}, 2.0) == {"a": 5, "b": 0}
