"""Parameters of a request: refused with the field's name when out of range, else laid out in llama.cpp's order."""

import math

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params
from plugsky.engine.errors import EngineError
from plugsky.engine.tokens import sampling

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
    "an infinite bias": (Params(logit_bias={1: math.inf}), "logit_bias"),
    "typical_p over 1": (Params(typical_p=1.5), "typical_p"),
    "a window below the whole answer": (Params(repeat_last_n=-2), "repeat_last_n"),
    "a negative DRY multiplier": (Params(dry_multiplier=-1.0), "dry_multiplier"),
    "a DRY base that shrinks": (Params(dry_base=0.9), "dry_base"),
    "a negative DRY length": (Params(dry_allowed_length=-1), "dry_allowed_length"),
    "a DRY window of billions": (Params(dry_penalty_last_n=1 << 31), "dry_penalty_last_n"),
    "21 log-probabilities": (Params(top_logprobs=21), "top_logprobs"),
    "fewer than no log-probabilities": (Params(top_logprobs=-1), "top_logprobs"),
    "triggers of no grammar": (Params(grammar_triggers=("x",)), "grammar_triggers"),
    "an empty trigger": (Params(grammar='root ::= "x"', grammar_triggers=("",)), "grammar_triggers"),
    "too many triggers": (Params(grammar='root ::= "x"', grammar_triggers=("x",) * 17), "grammar_triggers"),
    "a grammar whose end is to be ignored": (Params(grammar='root ::= "x"', ignore_eos=True), "ignore_eos"),
    "too many biases": (Params(logit_bias=dict.fromkeys(range(1025), 1.0)), "logit_bias"),
}


@pytest.mark.parametrize(("params", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_parameter_out_of_range_is_refused_by_name(params, field):
    with pytest.raises(EngineError) as refusal:
        sampling.check(params, n_vocab=100)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.BAD_REQUEST, field)


def test_a_grammar_that_cannot_be_read_is_refused_however_it_came():
    with pytest.raises(EngineError) as refusal:
        sampling.check(Params(grammar='root ::= root "x"'), n_vocab=100)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.SCHEMA_REFUSED, "grammar")


CHAINS = {
    "greedy": (Params(temperature=0.0, top_p=0.5), (sampling.Greedy(),)),
    "plain": (Params(seed=7), (sampling.Draw(7),)),
    "everything": (
        Params(
            0.7,
            40,
            0.9,
            0.05,
            0.1,
            0.2,
            1.1,
            7,
            logit_bias={5: 2.0, 3: 1.0},
            typical_p=0.8,
            repeat_last_n=64,
            dry_multiplier=0.5,
            dry_penalty_last_n=128,
        ),
        (
            sampling.LogitBias(((3, 1.0), (5, 2.0))),
            sampling.Penalties(1.1, 0.2, 0.1, 64),
            sampling.Dry(0.5, 1.75, 2, 128),
            sampling.TopK(40),
            sampling.Typical(0.8),
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
    "a temperature that no float can tell from 0 is greedy": (Params(temperature=1e-9), (sampling.Greedy(),)),
    "a window of nothing switches penalties off": (
        Params(presence_penalty=1.0, repeat_last_n=0, dry_multiplier=1.0, dry_penalty_last_n=0, seed=7),
        (sampling.Draw(7),),
    ),
}


@pytest.mark.parametrize(("params", "expected"), CHAINS.values(), ids=CHAINS.keys())
def test_parameters_become_a_chain(params, expected):
    sampling.check(params, n_vocab=100)
    assert sampling.stages(params) == expected


def test_requests_without_a_seed_draw_different_ones():
    assert len({sampling.stages(Params()) for _ in range(20)}) > 1
