"""Cutting a prompt into stretches: pure functions."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.server.aleph_alpha import stretching

TEXT = "The sea is wide. Is it deep? \n\n It is."
PIECES = (b"The", b" sea", b" is", b" wide", b".", b" Is", b" it", b" deep", b"?", b" \n\n It", b" is", b".")


def said(text, spans):
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize(
    ("granularity", "delimiter", "found"),
    [
        ("word", None, ["The", "sea", "is", "wide.", "Is", "it", "deep?", "It", "is."]),
        ("sentence", None, ["The sea is wide.", "Is it deep?", "It is."]),
        ("paragraph", None, ["The sea is wide. Is it deep?", "It is."]),
        ("custom", "it", ["The sea is wide. Is", "deep? \n\n It is."]),
        ("custom", ".*", [TEXT]),
        ("token", None, ["The", "sea", "is", "wide", ".", "Is", "it", "deep", "?", "It", "is", "."]),
    ],
)
def test_a_text_is_cut_as_was_asked(granularity, delimiter, found):
    tokens = stretching.token_spans(TEXT, PIECES)
    assert said(TEXT, stretching.spans(TEXT, granularity, delimiter, tokens)) == found


def test_what_a_vocabulary_puts_before_a_text_stands_at_its_beginning_and_is_empty():
    assert stretching.token_spans("sea", (b"<s>", b" sea")) == [(0, 0), (0, 3)]
    assert stretching.token_spans("sea", (b" sea",)) == [(0, 3)]


def test_a_token_that_ends_within_a_character_ends_behind_it():
    spans = stretching.token_spans("aé", (b"a\xc3", b"\xa9"))
    assert spans[0][0] == 0
    assert spans[-1][1] == 2


def test_a_stretch_touches_every_token_that_has_a_character_of_it():
    tokens = [(0, 0), (0, 3), (3, 7), (7, 10)]
    assert stretching.overlapping((1, 8), tokens) == {1, 2, 3}
    assert stretching.overlapping((3, 7), tokens) == {2}


def test_without_a_wish_the_cut_is_the_one_that_comes_nearest_to_thirty():
    assert stretching.chosen({"token": 200, "word": 150, "sentence": 12, "paragraph": 2}) == "sentence"
    assert stretching.chosen({"token": 9, "word": 7, "sentence": 1, "paragraph": 1}) == "token"


def test_scores_are_made_absolute_or_squared_and_then_spread_from_0_to_1():
    assert stretching.finished([[-2.0, 1.0], [0.0]], "absolute", normalize=False) == [[2.0, 1.0], [0.0]]
    assert stretching.finished([[-2.0, 1.0], [0.0]], "square", normalize=True) == [[1.0, 0.25], [0.0]]
    assert stretching.finished([[3.0, 3.0]], "none", normalize=True) == [[0.0, 0.0]]
    assert stretching.finished([], "none", normalize=True) == []


@given(st.text(max_size=200), st.sampled_from(["word", "sentence", "paragraph"]))
def test_stretches_of_any_text_come_in_order_and_hold_every_character_but_space(text, granularity):
    spans = stretching.spans(text, granularity, None, ())
    assert "".join("".join(said(text, spans)).split()) == "".join(text.split())
    assert all(begin < end for begin, end in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    assert all(part == part.strip() for part in said(text, spans))


@given(st.lists(st.lists(st.floats(-50, 50), max_size=5), max_size=4), st.sampled_from(["none", "absolute", "square"]))
def test_normalized_scores_lie_between_0_and_1(scores, postprocessing):
    made = stretching.finished(scores, postprocessing, normalize=True)
    assert [len(item) for item in made] == [len(item) for item in scores]
    assert all(0.0 <= score <= 1.0 for item in made for score in item)
