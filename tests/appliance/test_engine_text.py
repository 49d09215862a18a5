"""Text from pieces: whole characters, stop strings wherever they are cut, nothing taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.engine.tokens.text import TextStream

ALPHABET = st.text(alphabet="abS¡世👋\n", max_size=30)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def deliver(stream: TextStream, pieces: list[bytes]) -> str:
    text = ""
    for piece in pieces:
        text += stream.feed(piece)
        if stream.stop:
            return text
    return text + stream.finish()


@given(ALPHABET, st.lists(st.integers(1, 7), min_size=1))
def test_text_does_not_depend_on_how_its_bytes_are_cut(text, sizes):
    assert deliver(TextStream(), cut(text.encode(), sizes)) == text


@given(
    ALPHABET,
    st.lists(st.text(alphabet="abS¡世", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(1, 7), min_size=1),
)
def test_text_ends_before_the_stop_string_that_is_complete_first(text, stops, sizes):
    ends = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    stream = TextStream(tuple(stops))
    assert deliver(stream, cut(text.encode(), sizes)) == (text[: min(ends)[1]] if ends else text)
    assert stream.stop == (min(ends)[2] if ends else "")


CASES = {
    "a stop string in one piece": (("END",), [b"one END two"], "one "),
    "a stop string over three pieces": (("END",), [b"one E", b"N", b"D two"], "one "),
    "a beginning that comes to nothing": (("END",), [b"EN", b"V", b"Y"], "ENVY"),
    "a beginning at the very end": (("END",), [b"the EN"], "the EN"),
    "a stop string that repeats its beginning": (("aab",), [b"a", b"a", b"a", b"b"], "a"),
    "a short stop string inside a longer one": (("aabb", "b"), [b"aabb"], "aa"),
    "the earlier of two": (("two", "one"), [b"zero one two"], "zero "),
    "a stop string of several bytes per character": (
        ("世界",),
        ["ab世".encode()[:4], "世".encode()[2:], "界".encode()],
        "ab",
    ),
    "bytes that are no UTF-8": ((), [b"a\xff", b"b"], "a�b"),
    "a character left unfinished": ((), [b"a", "世".encode()[:2]], "a"),
    "an empty piece": (("x",), [b"", b"a", b""], "a"),
}


@pytest.mark.parametrize(("stops", "pieces", "expected"), CASES.values(), ids=CASES.keys())
def test_text_is_delivered_up_to_the_stop_string(stops, pieces, expected):
    assert deliver(TextStream(stops), pieces) == expected


@pytest.mark.parametrize("size", [1, 3, 255, 1000])
def test_what_is_held_back_is_shorter_than_the_longest_stop_string(size):
    stream, given = TextStream(("a" * 255 + "b", "a" * 20 + "c")), 0
    for _ in range(40):
        given += len(stream.feed(b"a" * size))
    assert 40 * size - given <= 255
    assert given + len(stream.finish()) == 40 * size


def test_nothing_is_delivered_after_a_stop_string():
    stream = TextStream(("END",))
    assert stream.feed(b"a END b") == "a "
    assert stream.stop == "END"
    assert stream.feed(b"more") == ""
    assert stream.finish() == ""


def test_a_control_token_that_is_shown_has_its_text_and_may_hold_a_stop_string():
    stream = TextStream(stops=("CALLS]g",), shown={7: "[TOOL_CALLS]"})
    assert stream.feed(b"a", 1) == "a"
    assert stream.feed(b"", 7) + stream.feed(b"f", 2) == "[TOOL_CALLS]f"
    assert stream.feed(b"", 8) == ""
    assert stream.feed(b"", 7) + stream.feed(b"g", 3) == "[TOOL_"
    assert stream.stop == "CALLS]g"
