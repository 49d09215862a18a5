"""Log-probabilities: those of the model itself, right to single precision, and writable as JSON."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.engine.tokens.logprobs import LEAST, logprobs


def piece(token):
    return b"<%d>" % token


@given(st.integers(1, 3000), st.integers(0, 20), st.integers(0, 99))
def test_they_are_the_logarithms_of_the_softmax(size, top, seed):
    logits = np.random.default_rng(seed).normal(0, 5, size).astype(np.float32)
    exact = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64))
    told = logprobs(logits, size // 2, min(top, size), piece)
    assert told.logprob == pytest.approx(exact[size // 2], abs=1e-5)
    assert [value for _, _, value in told.top] == pytest.approx(sorted(exact, reverse=True)[: min(top, size)], abs=1e-5)
    assert all(piece(token) == text for token, text, _ in told.top)


def test_rivals_come_likeliest_first_and_equals_by_their_number():
    told = logprobs(np.array([1.0, 3.0, 2.0, 3.0], dtype=np.float32), 0, 3, piece)
    assert [token for token, _, _ in told.top] == [1, 3, 2]


def test_all_of_them_sum_to_one():
    logits = np.random.default_rng(1).normal(0, 5, 20).astype(np.float32)
    assert sum(math.exp(value) for _, _, value in logprobs(logits, 0, 20, piece).top) == pytest.approx(1.0)


def test_an_impossible_token_has_a_number_that_json_can_write():
    told = logprobs(np.array([0.0, -math.inf], dtype=np.float32), 1, 2, piece)
    assert (told.logprob, told.top[1][2]) == (LEAST, LEAST)
