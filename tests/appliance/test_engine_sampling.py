"""Parameters of a request: refused with the field's name when out of range, else laid out in llama.cpp's order."""

import math

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params
from plugsky.engine import sampling
from plugsky.engine.errors import EngineError

WRONG = {
    "a negative temperature": (Params(temperature=-0.1), "temperature"),
    "a temperature that is no number": (Params(temperature=math.nan), "temperature"),
    "an infinite temperature": (Params(temperature=math.inf), "temperature"),
    "top_p over 1": (Params(top_p=1.1), "top_p"),
    "top_k below 0": (Params(top_k=-1), "top_k"),
    "min_p that is no number": (Params(min_p=math.nan), "min_p"),
    "an infinite penalty": (Params(frequency_penalty=math.inf), "frequency_penalty"),
    "a repeat penalty of 0": (Params(repeat_penalty=0.0), "repeat_penalty"),
    "an empty stop string": (Params(stop=("",)), "stop"),
    "a stop string that is too long": (Params(stop=("x" * 257,)), "stop"),
    "too many stop strings": (Params(stop=("x",) * 17), "stop"),
    "a bias for a token that is not there": (Params(logit_bias={100: 1.0}), "logit_bias"),
    "a bias for a negative token": (Params(logit_bias={-1: 1.0}), "logit_bias"),
    "a bias that is no number": (Params(logit_bias={1: math.nan}), "logit_bias"),
    "too many biases": (Params(logit_bias=dict.fromkeys(range(1025), 1.0)), "logit_bias"),
}


@pytest.mark.parametrize(("params", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_parameter_out_of_range_is_refused_by_name(params, field):
    with pytest.raises(EngineError) as refusal:
        sampling.check(params, n_vocab=100)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.BAD_REQUEST, field)


def test_log_probabilities_are_refused_rather_than_left_out():
    with pytest.raises(EngineError) as refusal:
        sampling.check(Params(top_logprobs=3), n_vocab=100)
    assert refusal.value.kind is ErrorKind.UNSUPPORTED_FIELD


CHAINS = {
    "greedy": (Params(temperature=0.0, top_p=0.5), (sampling.Greedy(),)),
    "plain": (Params(seed=7), (sampling.Draw(7),)),
    "everything": (
        Params(0.7, 40, 0.9, 0.05, 0.1, 0.2, 1.1, seed=7, logit_bias={5: 2.0, 3: 1.0}),
        (
            sampling.LogitBias(((3, 1.0), (5, 2.0))),
            sampling.Penalties(1.1, 0.2, 0.1),
            sampling.TopK(40),
            sampling.TopP(0.9),
            sampling.MinP(0.05),
            sampling.Temperature(0.7),
            sampling.Draw(7),
        ),
    ),
    "penalties apply to greedy too": (
        Params(temperature=0.0, presence_penalty=1.0),
        (sampling.Penalties(1.0, 0.0, 1.0), sampling.Greedy()),
    ),
    "a seed of more than 32 bits is reduced": (Params(seed=(1 << 40) + 7), (sampling.Draw(7),)),
    "a negative seed is reduced": (Params(seed=-2), (sampling.Draw(0xFFFFFFFE),)),
    "llama.cpp's word for any seed is not passed on": (Params(seed=0xFFFFFFFF), (sampling.Draw(0),)),
}


@pytest.mark.parametrize(("params", "expected"), CHAINS.values(), ids=CHAINS.keys())
def test_parameters_become_a_chain(params, expected):
    sampling.check(params, n_vocab=100)
    assert sampling.stages(params) == expected


def test_requests_without_a_seed_draw_different_ones():
    assert len({sampling.stages(Params()) for _ in range(20)}) > 1
