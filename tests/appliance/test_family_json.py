"""JSON found in text that arrives in pieces: it ends where a whole parser says it ends, and is as strict."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.engine.prompting.families.json_scan import JsonScanner, is_object, is_value, string_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def strictly(text):
    """Whether Python's own parser reads ``text``, without what it allows beyond the standard."""

    def refuse(word):
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return text.strip(" \t\r\n") != ""


@given(JSON, st.sampled_from([None, 2]), st.booleans(), st.text(max_size=3))
def test_the_end_of_a_value_is_found(value, indent, ascii_only, rest):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    scanner = JsonScanner()
    taken = scanner.feed(f"{text} {rest}")
    assert scanner.done
    assert taken == len(text)


@given(JSON, st.lists(st.integers(0, 200), max_size=8))
def test_where_it_is_cut_does_not_matter(value, cuts):
    text = json.dumps(value)
    scanner = JsonScanner()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(places):
        assert scanner.feed(text[start:end]) == end - start
    assert scanner.end()


@given(st.text('{}[]",:\\ \n0123-+.eEtruefalsnl/u\x00é', max_size=12))
def test_what_is_json_is_what_the_standard_says(text):
    assert is_value(text) == strictly(text)


WRONG = ["", "{", "{} {}", "[1,]", '{"a":}', "{'a':1}", "01", "+1", "1.", ".5", "NaN", "Infinity", "nul", '"\x01"', "]"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_json_is_none(text):
    assert not is_value(text)


def test_only_an_object_is_one():
    assert is_object(' {"a": [1, {}]} ')
    assert not is_object("[1]")
    assert not is_object('{"a": 1} x')


def test_a_number_without_end_is_refused():
    scanner = JsonScanner()
    scanner.feed("1" * 600)
    assert scanner.failed


def test_a_strings_escapes_are_read():
    assert string_of('"\\u00e9\\n"') == "é\n"
