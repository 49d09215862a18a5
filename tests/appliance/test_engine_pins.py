"""The book of what is pinned: bounded with numbers, nothing replaced by mistake, nothing counted that is not there."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Pin
from plugsky.engine.errors import EngineError
from plugsky.engine.serving.pins import MAX_PINS, Pins


def pin(name="rules", tokens=(1, 2, 3), adapter="", rid=1):
    return Pin(rid=rid, name=name, tokens=tokens, adapter=adapter)


@pytest.fixture
def pins():
    """A book of a cache of 400 cells, of which 100 may be pinned."""
    return Pins[str](400)


def refusal(call, *given):
    with pytest.raises(EngineError) as refused:
        call(*given)
    return refused.value


def test_a_pin_counts_once_it_is_computed(pins):
    pins.begin(pin(), 7, "admin")
    assert (pins.computing, pins.cells()) == (True, {})
    settled = pins.settle(7, computed=True)
    assert (settled.peer, settled.frame.rid, settled.cells) == ("admin", 1, 3)
    assert (pins.computing, pins.cells()) == (False, {"rules": 3})
    assert pins.release("rules") == 7
    assert pins.cells() == {}


def test_the_same_again_is_there_already_and_anything_else_under_its_name_is_refused(pins):
    assert not pins.is_there(pin())
    pins.begin(pin(), 7, "admin")
    assert refusal(pins.is_there, pin()).kind is ErrorKind.CONFLICT
    pins.settle(7, computed=True)
    assert pins.is_there(pin(rid=9))
    for other in (pin(tokens=(1, 2)), pin(adapter="medical")):
        assert refusal(pins.is_there, other).kind is ErrorKind.CONFLICT


def test_all_of_them_hold_at_most_a_quarter_of_the_cache(pins):
    pins.begin(pin("one", tuple(range(60))), 1, "admin")
    error = refusal(pins.begin, pin("two", tuple(range(41))), 2, "admin")
    assert error.kind is ErrorKind.TOO_LARGE
    assert [number in f"{error.what} {error.why}" for number in ("41", "100", "60")] == [True] * 3
    pins.begin(pin("two", tuple(range(40))), 2, "admin")


def test_their_number_is_bounded(pins):
    for n in range(MAX_PINS):
        pins.begin(pin(f"pin {n}", (n,)), n, "admin")
    assert refusal(pins.begin, pin("one more"), 99, "admin").kind is ErrorKind.TOO_LARGE


def test_one_that_failed_is_forgotten_and_gives_its_share_back(pins):
    pins.begin(pin(tokens=tuple(range(100))), 7, "admin")
    assert pins.settle(7, computed=False).frame.name == "rules"
    pins.begin(pin(tokens=tuple(range(100))), 8, "admin")
    assert pins.settle(7, computed=True) is None


def test_what_is_not_there_or_not_there_yet_cannot_be_released(pins):
    assert refusal(pins.release, "rules").kind is ErrorKind.NOT_FOUND
    pins.begin(pin(), 7, "admin")
    assert refusal(pins.release, "rules").kind is ErrorKind.CONFLICT


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_name_has_bounds(pins, name):
    assert refusal(pins.begin, pin(name), 1, "admin").param == "name"
