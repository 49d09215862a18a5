"""Images stand in a prompt as runs of numbers below zero, told apart by their pictures and never cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.prefix import PrefixTree, Resident, TokenBuffer

pieces = st.lists(
    st.one_of(
        st.lists(st.integers(0, 300), min_size=1, max_size=5).map(tuple),
        st.tuples(st.sampled_from([b"cat", b"dog"]), st.integers(virtual.SHORTEST, 20)).map(
            lambda image: virtual.run(*image)
        ),
    ),
    max_size=6,
)


def as_array(tokens):
    return np.array(tokens, dtype=np.int32)


def test_the_same_picture_has_the_same_tokens_and_another_has_others():
    assert virtual.run(b"cat", 64) == virtual.run(b"cat", 64)
    assert not set(virtual.run(b"cat", 64)) & set(virtual.run(b"dog", 64))


def test_the_same_picture_at_another_length_has_other_tokens_from_the_first_on():
    assert virtual.run(b"cat", 64)[0] != virtual.run(b"cat", 65)[0]


def test_a_run_too_short_to_tell_pictures_apart_is_refused():
    with pytest.raises(ValueError, match="shorter than 8"):
        virtual.run(b"cat", virtual.SHORTEST - 1)


@given(pieces)
def test_any_row_of_texts_and_images_says_where_its_images_are(parts):
    tokens = [token for part in parts for token in part]
    images = [(sum(map(len, parts[:n])), part) for n, part in enumerate(parts) if part[0] < 0]
    assert list(virtual.images(tokens)) == images


@given(pieces, st.data())
def test_no_beginning_ends_inside_an_image_and_no_more_is_cut_off_than_that(parts, data):
    tokens = as_array([token for part in parts for token in part])
    length = data.draw(st.integers(0, len(tokens)))
    inside = [range(at + 1, at + len(run)) for at, run in virtual.images(tokens)]
    kept = virtual.whole(tokens, length)
    image = next((image for image in inside if length in image), None)
    assert kept == (length if image is None else image.start - 1)


@given(pieces)
def test_pieces_to_compute_are_whole_images_and_the_text_between_them(parts):
    tokens = as_array([token for part in parts for token in part])
    at = 0
    while at < len(tokens):
        length = virtual.stretch(tokens[at:])
        piece = tokens[at : at + length]
        runs = list(virtual.images(piece))
        assert runs == [(0, tuple(piece.tolist()))] if piece[0] < 0 else not runs
        at += length


@pytest.mark.parametrize("tokens", [(5, -3, 6), (-1,), (-(1 << 40),)])
def test_numbers_below_zero_that_are_no_image_are_found(tokens):
    with pytest.raises(ValueError, match=r"beginning|below"):
        list(virtual.images(tokens))


def test_the_prefix_tree_finds_a_prompt_by_its_images():
    tree = PrefixTree()
    cat, dog = virtual.run(b"cat", 16), virtual.run(b"dog", 16)
    tree.add(Resident(0, "root", TokenBuffer((1, 2, *cat, 3, 4))))
    (same,) = tree.alike("root", as_array((1, 2, *cat, 3, 5)))
    (other,) = tree.alike("root", as_array((1, 2, *dog, 3, 4)))
    assert (same.length, other.length) == (19, 2)
