"""Reading the streams of other servers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine.sse import Chunked, Events

BODY = b'data: {"a": 1}\n\ndata: two\ndata:  lines\r\n\r\n: still here\n\nevent: error\ndata: [DONE]\n\n'
TOLD = ['{"a": 1}', "two\n lines", "[DONE]"]
CODED = b"1e;x=y\r\n" + BODY[:30] + b"\r\n%x\r\n" % len(BODY[30:]) + BODY[30:] + b"\r\n0\r\n\r\n"


def parts_of(data, cuts):
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 1000)))
def test_events_come_out_the_same_however_the_network_cuts_them(cuts):
    chunked, events = Chunked(), Events()
    told = [event for part in parts_of(CODED, cuts) for event in events.feed(chunked.feed(part))]
    assert told == TOLD
    assert chunked.over


def test_what_follows_the_last_chunk_is_not_read():
    chunked = Chunked()
    assert chunked.feed(CODED + b"5\r\nagain\r\n") == BODY


def test_a_chunk_that_is_longer_than_it_says_is_refused():
    with pytest.raises(ValueError, match="chunk"):
        Chunked().feed(b"2\r\nabcd\r\n")


def test_a_line_that_is_no_field_is_refused():
    with pytest.raises(ValueError, match="no field"):
        list(Events().feed(b"<html>\n"))
