"""Fingerprints as words: the encoding of arXiv:0901.4016, both ways, and what is said of a slip."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky_bundles import fingerprint_words
from plugsky_bundles.fingerprint_words import WORDS, from_words, read_fingerprint, to_words

FINGERPRINTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
PIN = bytes(range(32)).hex()


def listed(fingerprint: str) -> list[str]:
    return to_words(fingerprint).replace("-", " ").split()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("7f000001", "lusab-babad"),
        ("3f54dcc1", "gutih-tugad"),
        ("3f760723", "gutuk-bisog"),
        ("8c62c18d", "mudof-sakat"),
        ("40ff06c8", "haguz-biram"),
        ("801e342d", "mabiv-gibot"),
        ("93437702", "natag-lisaf"),
        ("d43afd44", "tibup-zujah"),
        ("d82344d7", "tobog-higil"),
        ("d844e815", "todah-vobij"),
    ],
)
def test_the_words_are_those_of_the_paper(address, words):
    assert to_words(address + "00" * 28).startswith(words)


def test_a_fingerprint_is_sixteen_words_and_one_that_checks_them():
    assert len(listed(PIN)) == WORDS + 1
    assert {len(word) for word in listed(PIN)} == {5}


@given(FINGERPRINTS)
def test_words_lead_back_to_the_fingerprint(fingerprint):
    assert from_words(to_words(fingerprint)) == fingerprint


@pytest.mark.parametrize(
    "write",
    [
        str.upper,
        lambda words: words.replace("-", " "),
        lambda words: words.replace(" ", "-"),
        lambda words: words.replace("-", "\n").replace(" ", "\r\n\t"),
        lambda words: words.replace("-", ", "),
        lambda words: f"  {words}.\n",
    ],
    ids=["capitals", "spaces", "hyphens", "lines", "commas", "around"],
)
def test_words_are_read_in_any_common_spacing(write):
    assert read_fingerprint(write(to_words(PIN))) == PIN


@pytest.mark.parametrize("write", [str.upper, lambda pin: " ".join(pin[i : i + 4] for i in range(0, 64, 4))])
def test_digits_are_read_too(write):
    assert read_fingerprint(write(PIN)) == PIN


@pytest.mark.parametrize("wrong", ["lusax", "lusa", "lusabb", "labad7", "ebbad", "ĸusab"])
def test_a_word_that_cannot_be_one_is_named(wrong):
    words = listed(PIN)
    words[6] = wrong
    with pytest.raises(ValueError, match=f"word 7, '{wrong}', is none"):
        read_fingerprint(" ".join(words))


@given(FINGERPRINTS, st.integers(0, WORDS), st.integers(0, 4), st.randoms(use_true_random=False))
def test_a_wrong_letter_is_never_taken_for_right(fingerprint, index, place, chance: random.Random):
    words = listed(fingerprint)
    letters = fingerprint_words.VOWELS if place % 2 else fingerprint_words.CONSONANTS
    other = chance.choice([letter for letter in letters if letter != words[index][place]])
    words[index] = words[index][:place] + other + words[index][place + 1 :]
    try:
        read = from_words(" ".join(words))
    except ValueError as error:
        assert f"word {index + 1}, '{words[index]}'" in str(error) or "at least one word is wrong" in str(error)  # noqa: PT017 - a collision of the check is allowed below
    else:
        assert read != fingerprint, "the check has 16 bits: one slip in 65536 makes another fingerprint, never the same"


def test_the_word_with_the_wrong_letter_is_named():
    words = listed(PIN)
    words[9] = words[9][:4] + ("b" if words[9][4] != "b" else "d")
    with pytest.raises(ValueError, match=f"word 10, '{words[9]}', seems to have a wrong letter"):
        from_words(" ".join(words))


def test_words_that_changed_places_are_named():
    words = listed(PIN)
    words[2], words[3] = words[3], words[2]
    with pytest.raises(ValueError, match=r"words 3 and 4, .* changed places"):
        from_words(" ".join(words))


def test_two_wrong_words_are_refused_without_a_guess():
    words = listed(PIN)
    words[0] = words[1] = words[5] = "babab"
    with pytest.raises(ValueError, match="at least one word is wrong"):
        from_words(" ".join(words))


@pytest.mark.parametrize("count", [1, 16, 18])
def test_too_few_or_too_many_words_are_refused(count):
    words = [*listed(PIN), "babad"][:count]
    with pytest.raises(ValueError, match=f"there are {count} words"):
        from_words(" ".join(words))


@pytest.mark.parametrize("text", ["", "0" * 63, "zz", "§", "0x" + "0" * 64])
def test_what_is_neither_digits_nor_words_is_refused(text):
    with pytest.raises(ValueError, match=r"64 hexadecimal digits"):
        read_fingerprint(text)


@pytest.mark.parametrize("text", ["", "zz", "0" * 63])
def test_only_a_fingerprint_becomes_words(text):
    with pytest.raises(ValueError, match="64"):
        to_words(text)
