"""How many prompt tokens a step may take: the target held where it can be, prompts moving where it cannot."""

import numpy as np
import pytest

from plugsky.engine.scheduling.pace import SHARE, Pace

TARGET, ALONE, BATCH, FIRST = 100_000, 400_000, 256, 300_000


def learnt(step: int, decode: int, prefill: int) -> Pace:
    """The pace of a machine with these prices, after steps of every kind."""
    pace = Pace(TARGET, ALONE, BATCH, FIRST)
    for number in range(200):
        tokens = (number % 17, number * 7 % 40 + 1)
        pace.learn(*tokens, step + decode * tokens[0] + prefill * tokens[1])
    return pace


@pytest.mark.parametrize("running", [1, 4, 16])
def test_a_step_with_prompts_keeps_within_the_target_where_decoding_leaves_room(running):
    budget = learnt(2_000, 3_000, 1_000).budget(running)
    assert 0.8 * TARGET <= 2_000 + 3_000 * running + 1_000 * budget <= 1.1 * TARGET


def test_a_step_that_completes_prompts_may_take_longer_up_to_a_bound_of_its_own():
    pace = learnt(2_000, 3_000, 1_500)
    assert 0.8 * FIRST <= 2_000 + 3_000 * 8 + 1_500 * pace.reach(8) <= 1.1 * FIRST
    assert pace.reach(0) == pace.budget(0)


@pytest.mark.parametrize("prefill", [2_000, 10_000, 50_000])
def test_prompts_keep_moving_beside_decoding_that_alone_takes_longer_than_the_target(prefill):
    alone = 5_000 + 15_000 * 16
    budget = learnt(5_000, 15_000, prefill).budget(16)
    assert 0.8 * SHARE * alone <= prefill * budget <= 1.2 * SHARE * alone


def test_steps_that_stalled_do_not_stop_prompts_for_good():
    pace = learnt(2_000, 3_000, 1_000)
    before = pace.budget(16)
    for _ in range(20):
        pace.learn(16, 8, 10 * TARGET)
    for _ in range(100):
        pace.learn(16, 30, 2_000 + 3_000 * 16 + 1_000 * 30)
    assert pace.budget(16) >= before // 2


def test_there_is_always_a_token_for_prompts_and_never_more_than_the_batch_holds():
    assert learnt(1_000, 1_000, 900_000).budget(1) == 1
    assert learnt(1, 1, 1).budget(16) == BATCH - 16


def test_what_a_step_costs_is_fitted_as_a_solver_of_linear_equations_would():
    pace = Pace(TARGET, ALONE, BATCH, FIRST)
    squares, sums = np.zeros((3, 3)), np.zeros(3)
    for number in range(100):
        tokens = (number % 5, number * 7 % 40)
        t_us = 3_000 + 2_500 * tokens[0] + 1_700 * tokens[1]
        believed = np.array(pace.believed)
        x = np.array((1.0, *tokens)) / t_us
        squares, sums = 0.95 * squares + np.outer(x, x), 0.95 * sums + x
        pull = 0.05 / np.maximum(believed, np.array((2_000.0, 4_000.0, 2_000.0)) / 20) ** 2
        pace.learn(*tokens, t_us)
        fit = np.linalg.solve(squares + np.diag(pull), sums + pull * believed)
        assert pace.believed == pytest.approx(np.maximum(fit, 1.0), rel=1e-6)
