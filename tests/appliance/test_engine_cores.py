"""Leases of cores: fair, never more than there are, deterministic, and not flapping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.engine.life.cores import HOLD_US, Leases, shares
from plugsky.engine.life.leases import granted_cores

SHARES = {
    "nobody is busy": (8, (), {}, {}),
    "one has all": (8, ("a",), {}, {"a": 8}),
    "two have half each": (8, ("a", "b"), {}, {"a": 4, "b": 4}),
    "what is left over goes by name": (7, ("b", "a", "c"), {}, {"a": 3, "b": 2, "c": 2}),
    "what is left over stays where it is": (7, ("a", "b", "c"), {"c": 7}, {"a": 2, "b": 2, "c": 3}),
    "more engines than cores have one each": (2, ("a", "b", "c"), {}, {"a": 1, "b": 1, "c": 1}),
}


@pytest.mark.parametrize(("cores", "busy", "held", "expected"), SHARES.values(), ids=SHARES)
def test_busy_engines_share_the_cores(cores, busy, held, expected):
    assert shares(cores, busy, held) == expected


def test_an_engine_that_wakes_takes_its_share_from_the_other_before_it_gets_it():
    leases = Leases(4)
    assert leases.observe({"a": True, "b": False}, 0) == [("a", 4), ("b", 1)]
    assert leases.observe({"a": True, "b": True}, 1) == [("a", 2), ("b", 2)]


def test_a_pause_between_two_requests_changes_nothing():
    leases = Leases(4)
    leases.observe({"a": True, "b": True}, 0)
    assert leases.observe({"a": True, "b": False}, HOLD_US - 1) == []
    assert leases.observe({"a": True, "b": True}, HOLD_US) == []


def test_the_cores_of_an_engine_that_stays_idle_go_to_the_other():
    leases = Leases(4)
    leases.observe({"a": True, "b": True}, 0)
    assert leases.observe({"a": True, "b": False}, HOLD_US) == [("b", 1), ("a", 4)]


def test_an_engine_that_was_started_anew_is_told_its_share_again():
    leases = Leases(4)
    leases.observe({"a": True}, 0)
    leases.observe({}, 1)
    assert leases.observe({"a": True}, 2) == [("a", 4)]


def test_nobody_is_told_what_is_known():
    leases = Leases(4)
    leases.observe({"a": True}, 0)
    assert leases.observe({"a": True}, 1) == []


@given(
    cores=st.integers(1, 64),
    looks=st.lists(st.dictionaries(st.sampled_from("abcdef"), st.booleans()), max_size=30),
    pace=st.integers(1, 2 * HOLD_US),
)
def test_leases_are_sound_after_any_history(cores, looks, pace):
    leases, same = Leases(cores), Leases(cores)
    last_busy = {}
    for n, look in enumerate(looks):
        now = n * pace
        assert leases.observe(look, now) == same.observe(look, now)
        last_busy = {name: at for name, at in last_busy.items() if name in look}
        last_busy |= {name: now for name, works in look.items() if works}
        busy = [leases.held[name] for name, at in last_busy.items() if now - at < HOLD_US]
        assert leases.held.keys() == look.keys()
        assert all(n >= 1 for n in leases.held.values())
        assert sum(busy) <= max(cores, len(busy))
        assert not busy or max(busy) - min(busy) <= 1
        assert not busy or sum(busy) >= cores


LIMITS = {
    "no file": (None, None, 8),
    "no limit": ("max 100000", None, 8),
    "four cores": ("400000 100000", None, 4),
    "half a core is one": ("50000 100000", None, 1),
    "two and a half are two": ("250000 100000", None, 2),
    "more than there are": ("9900000 100000", None, 8),
    "the slice above has less": ("400000 100000", "300000 100000", 3),
}


@pytest.mark.parametrize(("own", "above", "granted"), LIMITS.values(), ids=LIMITS)
def test_the_limits_of_the_cgroup_are_kept(tmp_path, own, above, granted):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/plugsky.slice/serve\n")
    group = tmp_path / "cgroup/plugsky.slice/serve"
    group.mkdir(parents=True)
    for folder, limit in ((group, own), (group.parent, above)):
        if limit is not None:
            (folder / "cpu.max").write_text(limit + "\n")
    assert granted_cores(8, tmp_path / "proc", tmp_path / "cgroup") == granted
