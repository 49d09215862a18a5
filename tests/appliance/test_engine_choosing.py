"""One token of a row: drawn by its probability, by numbers that are its own, and as a grammar admits."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.constraint import Constraint, Pieces
from plugsky.engine.grammars.grammar import GrammarSpec
from plugsky.engine.tokens import choosing, sampling
from plugsky.engine.tokens.choosing import uniform

WORDS = [b"a", b"b", b"ab", b"{", b"}", b"<call>", b"x<ca", b"ll>b", b"ll>{", b"", b"", b"\xc3", b"\xa9"]
NAMED, END = 9, 10
PIECES = Pieces(WORDS, lambda token: token == END, {NAMED: "<|call|>", END: "<|end|>"})


def row(**probabilities):
    """Logits of these words; all others are as good as impossible."""
    logits = np.full(len(WORDS), -60.0, dtype=np.float32)
    for word, probability in probabilities.items():
        logits[WORDS.index(word.encode())] = math.log(probability)
    return logits


def draw(logits, temperature, at):
    return choosing.draw(logits, temperature, at, np.empty_like(logits))


def chooser_of(stages, constraint=None):
    return choosing.Chooser(stages, np.empty(1000, dtype=np.float32), None, constraint)


def under(text, *triggers):
    return Constraint(GrammarSpec(text, triggers), PIECES)


def test_draws_come_as_often_as_their_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    times = Counter(draw(logits, 1.0, uniform(1, place, 0)) for place in range(20_000))
    assert [times[token] / 20_000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.01)


def test_a_temperature_sharpens_and_flattens():
    logits = np.log(np.array([0.6, 0.4], dtype=np.float32))
    share = [sum(draw(logits, t, uniform(1, n, 0)) == 0 for n in range(5000)) / 5000 for t in (0.2, 1.0, 5.0)]
    assert share[0] > 0.85 > share[1] > 0.57 > share[2] > 0.5


@given(st.integers(1, 3000), st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 99))
def test_a_draw_is_the_place_where_the_summed_probabilities_pass_the_number(size, at, seed):
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    sums = np.cumsum(np.exp(logits.astype(np.float64) - logits.max()))
    place = draw(logits, 1.0, at)
    assert sums[place] / sums[-1] >= at - 1e-5
    assert place == 0 or sums[place - 1] / sums[-1] <= at + 1e-5


EXTREMES = {
    "one candidate": ([3.0], 0.999, 0),
    "candidates ruled out": ([-math.inf, 1.0, -math.inf], 0.0, 1),
    "the very end": ([0.0] * 700 + [-math.inf] * 700, 1.0 - 1e-16, 699),
    "numbers of any size": ([-1e30, 1e30], 0.5, 1),
}


@pytest.mark.parametrize(("logits", "at", "place"), EXTREMES.values(), ids=EXTREMES.keys())
def test_a_draw_takes_no_impossible_candidate(logits, at, place):
    assert draw(np.array(logits, dtype=np.float32), 1.0, at) == place


@pytest.mark.parametrize("logits", [[math.nan, 1.0], [-math.inf, -math.inf], [math.inf, 1.0]])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_no_numbers_end_the_request(logits):
    with pytest.raises(EngineError) as failure:
        draw(np.array(logits, dtype=np.float32), 1.0, 0.5)
    assert failure.value.kind is ErrorKind.INTERNAL


def test_a_resumed_answer_is_drawn_as_it_would_have_been():
    logits = np.random.default_rng(5).normal(0, 2, 1000).astype(np.float32)
    whole, made = chooser_of((sampling.Draw(7),)), []
    for _ in range(20):
        made.append(whole.pick(logits))
        whole.accept(made[-1])
    resumed = chooser_of((sampling.Draw(7),))
    for token in made[:12]:
        resumed.accept(token)
    assert resumed.pick(logits) == made[12]
    assert len(set(made)) > 10


def test_a_bias_makes_a_token_come_and_changes_no_neighbours_row():
    logits = row(a=0.9, b=0.1)
    before = logits.copy()
    assert chooser_of((sampling.LogitBias(((1, 50.0),)), sampling.Greedy())).pick(logits) == 1
    assert (logits == before).all()


def test_greedy_under_a_grammar_takes_the_likeliest_admitted():
    chooser = chooser_of((sampling.Greedy(),), under('root ::= "b" | "{"'))
    assert WORDS[chooser.pick(row(a=0.6, b=0.1, ab=0.3))] == b"b"


def test_under_a_grammar_tokens_come_as_often_as_among_the_admitted():
    times = Counter()
    for seed in range(2000):
        chooser = chooser_of((sampling.Draw(seed),), under('root ::= "b" | "{" | "}"'))
        times[WORDS[chooser.pick(row(a=0.5, b=0.2, ab=0.1, **{"{": 0.1, "}": 0.1}))]] += 1
    assert [times.pop(word) / 2000 for word in (b"b", b"{", b"}")] == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    assert not times


def test_one_string_only_is_spelt_out_and_then_ends():
    chooser, made = chooser_of((sampling.Draw(3),), under('root ::= "ab{é}"')), b""
    flat = np.zeros(len(WORDS), dtype=np.float32)
    while not chooser.done:
        token = chooser.pick(flat)
        chooser.accept(token)
        made += WORDS[token]
    assert made.decode() == "ab{é}"
    assert chooser.pick(flat) == END


def test_the_end_is_not_chosen_before_the_grammar_is_complete():
    logits = np.zeros(len(WORDS), dtype=np.float32)
    logits[END] = 20.0
    chooser = chooser_of((sampling.Draw(1),), under('root ::= "a"+ "}"'))
    assert chooser.pick(logits) == 0
    chooser.accept(0)
    assert chooser.pick(logits) in (0, 4)
    chooser.accept(4)
    assert chooser.pick(logits) == END


def test_a_control_token_is_never_text_of_a_grammar():
    assert not under("root ::= .*").allows(NAMED)


def test_a_grammar_that_no_token_can_go_on_with_ends_the_request():
    chooser = chooser_of((sampling.Draw(1),), under('root ::= "z"'))
    with pytest.raises(EngineError) as failure:
        chooser.pick(np.zeros(len(WORDS), dtype=np.float32))
    assert failure.value.kind is ErrorKind.SCHEMA_REFUSED


def test_a_grammar_that_explodes_ends_the_request_only():
    held = under('root ::= "a" root "b" | "a" root "{" | "}"')
    with pytest.raises(EngineError) as failure:
        list(map(held.accept, [0] * 64))
    assert failure.value.kind is ErrorKind.SCHEMA_REFUSED


def test_resumed_tokens_that_break_the_grammar_are_refused():
    with pytest.raises(EngineError) as refusal:
        chooser_of((sampling.Greedy(),), under('root ::= "b"')).accept(0)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.BAD_REQUEST, "resume_tokens")


CALL = 'root ::= ("<call>" | "<|call|>") "{" "a"* "}"'
LAZY = {
    "in one token": ([b"a", b"<call>"], [b"{"], [b"a", b"}"]),
    "over tokens": ([b"b", b"x<ca"], [b"ll>{", b"a", b"{"], [b"ll>b"]),
    "with more of the grammar in its last token": ([b"x<ca", b"ll>{"], [b"a", b"}"], [b"{", b"b"]),
    "begun and not finished": ([b"x<ca", b"x<ca"], [b"a", b"ll>{", b"<call>"], [b"ll>b"]),
    "not begun": ([], [b"a", b"}", b"<call>"], []),
}


@pytest.mark.parametrize(("before", "admitted", "not_admitted"), LAZY.values(), ids=LAZY.keys())
def test_a_grammar_waits_for_its_trigger(before, admitted, not_admitted):
    held = under(CALL, "<call>", "<|call|>")
    for word in before:
        held.accept(WORDS.index(word))
    assert [word for word in admitted if not held.allows(WORDS.index(word))] == []
    assert [word for word in not_admitted if held.allows(WORDS.index(word))] == []


def test_a_control_token_can_be_a_trigger():
    held = under(CALL, "<|call|>")
    held.accept(NAMED)
    assert held.allows(WORDS.index(b"{"))
    assert not held.allows(END)


def test_while_a_grammar_waits_the_answer_may_end():
    held = under(CALL, "<call>")
    assert held.allows(END)
    assert not held.exhausted


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=12))
def test_what_is_allowed_is_always_possible(tokens):
    held = under('root ::= ("a" | "ab{" [^}]* "}" | "é")*', "a")
    for token in tokens:
        if held.allows(token):
            assert held.possible()[token]
            held.accept(token)


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=6))
def test_what_is_ruled_out_with_a_token_was_not_allowed(tokens):
    held = under('root ::= ("a" | "ab{" [^}]* "}" | "é" | "x<c" [^y]+ "y")*')
    for token in tokens:
        if held.allows(token):
            held.accept(token)
        possible = held.possible()
        for wrong in (word for word in range(len(WORDS)) if not held.allows(word)):
            held.rule_out(wrong, possible)
        assert possible.tolist() == [held.allows(word) for word in range(len(WORDS))]


def test_numbers_of_places_attempts_and_seeds_are_apart():
    numbers = {uniform(seed, place, attempt) for seed in range(10) for place in range(10) for attempt in range(10)}
    assert len(numbers) == 1000
    assert 0.4 < sum(numbers) / 1000 < 0.6
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert choosing.uniform(1, 2, 3) == choosing.uniform(1, 2, 3)
