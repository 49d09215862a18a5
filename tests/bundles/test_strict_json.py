import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky_bundles.errors import MalformedMetadata
from plugsky_bundles.strict_json import MAX_INTEGER, decode, encode, is_canonical, parse, parse_object

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(plain)
def test_a_value_reads_back_as_it_was_written(value):
    try:
        data = encode(value)
        value_text = json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return
    assert value_text
    assert parse(data, "x", limit=1 << 20, depth=20) == value
    assert is_canonical(data, value)


@given(plain)
def test_what_was_written_reads_back_by_the_quick_way_too(value):
    assert decode(encode(value)) == value


@given(plain, st.integers(0, 1000), st.binary(max_size=2))
def test_the_quick_way_refuses_every_other_way_to_write(value, place, other):
    data = encode(value)
    changed = data[: place % (len(data) + 1)] + other + data[place % (len(data) + 1) + 1 :]
    with contextlib.suppress(ValueError):
        assert encode(decode(changed)) == changed


@pytest.mark.parametrize(
    "data", [b"1.0", b"NaN", b"9007199254740992", b" 1", b"[1, 2]", b'{"b":1,"a":2}', b'"\xc3\xa9"']
)
def test_the_quick_way_refuses_what_has_no_exact_form(data):
    with pytest.raises(ValueError):
        decode(data)


@given(st.binary(max_size=60))
def test_any_bytes_either_parse_or_are_refused(data):
    with contextlib.suppress(MalformedMetadata):
        parse(data, "x", limit=1000)


REFUSED = {
    "a key twice": b'{"a":1,"a":1}',
    "a key twice further in": b'[{"b":{"a":1,"a":2}}]',
    "a float": b"[1.0]",
    "an exponent": b"[1e3]",
    "not a number": b"[NaN]",
    "infinity": b"[-Infinity]",
    "an integer beyond 2^53": b"[9007199254740992]",
    "an integer of ten million digits": b"[" + b"1" * 10_000_000 + b"]",
    "half a surrogate pair": b'["\\ud800"]',
    "half a surrogate pair as a key": b'{"\\udC00":1}',
    "not UTF-8": b'["\xff"]',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nested a hundred thousand deep": b"[" * 100_000,
    "nested just too deep": b"[" * 17 + b"]" * 17,
    "a string without end, of a million quotes": b'"' + b'\\"' * 1_000_000,
    "a string that ends in a backslash": b'["\\',
    "two values": b"{}{}",
    "nothing": b"",
    "a trailing comma": b"[1,]",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_json_with_two_readings_or_without_bounds_is_refused(data):
    with pytest.raises(MalformedMetadata):
        parse(data, "x", limit=20_000_000)


def test_brackets_inside_text_are_not_nesting():
    assert parse(b'["' + b"[{" * 50 + b'\\"]"]', "x", limit=1000) == ["[{" * 50 + '"]']


def test_more_bytes_than_the_limit_are_not_even_parsed():
    with pytest.raises(MalformedMetadata, match="limit is 1"):
        parse(b"{}", "x", limit=1)


def test_what_must_be_an_object_is_one():
    with pytest.raises(MalformedMetadata, match="not a JSON object"):
        parse_object(b"[]", "x", limit=10)


@pytest.mark.parametrize("value", [1.5, float("nan"), {1: 2}, b"x", {"a": {2}}, 1 << 60])
def test_a_value_without_one_exact_form_is_not_written(value):
    with pytest.raises((TypeError, ValueError)):
        encode(value)


def test_spaces_order_and_escapes_make_a_file_not_canonical():
    for data in (b'{"a": 1}', b'{"b":1,"a":1}', b'{"a":"\\u0041"}', b'{"a":1}\n'):
        assert not is_canonical(data, parse(data, "x", limit=100))
