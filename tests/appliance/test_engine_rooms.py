"""Memory shared by engines: who makes room, for whom, and what each may count as free."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.engine.life import lifecycle as life
from plugsky.engine.life import rooms
from plugsky.engine.life.lifecycle import Life, step
from plugsky.engine.life.rooms import Holder, Rooms, choose

HOLDERS = st.lists(st.builds(Holder, st.text(max_size=2), st.integers(0, 100), st.floats(0, 10)), max_size=6)


def test_the_one_used_longest_ago_makes_room():
    assert choose([Holder("a", 100, 5.0), Holder("b", 100, 1.0), Holder("c", 100, 3.0)], 50) == ("b",)
    assert choose([Holder("a", 100, 5.0), Holder("b", 100, 1.0), Holder("c", 100, 3.0)], 150) == ("b", "c")


def test_nobody_ends_where_that_would_not_be_enough():
    assert choose([Holder("a", 100, 5.0)], 101) == ()


@given(HOLDERS, st.integers(1, 400))
def test_who_is_chosen_is_enough_and_each_of_them_is_needed(holders, missing):
    chosen = choose(holders, missing)
    held = sorted(holders, key=lambda each: (each.used, each.name))[: len(chosen)]
    total = sum(each.held for each in held)
    if chosen:
        assert total >= missing
        assert total - held[-1].held < missing
    else:
        assert sum(each.held for each in holders) < missing


@dataclass
class Engine:
    """A resident of a folder that looks like /proc."""

    pid: int
    requests: int | None = 0
    rested: list = field(default_factory=list)

    async def load(self):
        return self.requests

    async def rest(self):
        self.rested.append(self.pid)
        self.pid = 0


@pytest.fixture
def host(tmp_path):
    made = Rooms(tmp_path)
    for number, name in enumerate("abc", 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "status").write_text("Name:\tpython\nVmRSS:\t 100 kB\nRssFile:\t  60 kB\n")
        setattr(made, name, Engine(number))
        made.add(name, getattr(made, name))
    return made


def test_what_others_have_mapped_is_not_free(host):
    assert host.taken_beside("a") == 120 * 1024
    host.b.pid = 0
    host.c.pid = 99  # has just ended
    assert host.taken_beside("a") == 0


async def test_an_idle_engine_makes_room_and_a_busy_one_does_not(host):
    host.b.requests = 1
    assert await host.make("a", 50 * 1024)
    assert (host.b.rested, host.c.rested) == ([], [3])
    assert not await host.make("a", 50 * 1024)


async def test_an_engine_that_was_busy_a_moment_ago_makes_no_room_yet(host, monkeypatch):
    host.seen({"b": True, "c": True})
    assert not await host.make("a", 1)
    monkeypatch.setattr(rooms, "IDLE_S", 0.0)
    assert await host.make("a", 1)


async def test_an_engine_that_does_not_say_what_it_does_makes_no_room(host):
    host.b.requests = host.c.requests = None
    assert not await host.make("a", 1)


async def test_two_that_need_room_do_not_both_count_on_the_same_one(host):
    host.c.requests = 1
    assert sorted(await asyncio.gather(host.make("a", 50 * 1024), host.make("c", 50 * 1024))) == [True, True]
    assert (host.b.rested, host.a.rested) == ([2], [1])


LOADING = Life("loading", pid=7)
ROOMLESS = Life("absent", pid=7, problem="too large", roomless=True)


def test_a_model_without_room_asks_for_it_and_is_settled_with_its_problem():
    assert step(LOADING, life.NoRoom("too large", 5)) == (ROOMLESS, (life.MakeRoom(5),))
    assert ROOMLESS.settled


def test_once_there_is_room_another_process_takes_the_place_of_the_one_without():
    admitted, effects = step(ROOMLESS, life.Admit())
    assert effects == (life.Terminate(),)
    spawned, effects = step(admitted, life.Exited("ended"))
    assert effects == (life.Spawn(),)
    loading, _ = step(spawned, life.Spawned(8))
    ready, _ = step(loading, life.Loaded())
    assert (ready.state, ready.roomless, ready.problem) == ("ready", False, "")


def test_without_room_the_process_ends_and_somebodys_wish_begins_it_anew():
    ending, effects = step(ROOMLESS, life.Dismiss())
    assert effects == (life.Terminate(),)
    absent, effects = step(ending, life.Exited("ended"))
    assert (absent.state, absent.pid, effects) == ("absent", 0, (life.Await(),))
    assert step(absent, life.Admit()) == (Life("admitted"), (life.Spawn(),))


def test_an_engine_that_rests_is_awaited_like_an_idle_one():
    resting, effects = step(Life("ready", pid=7), life.Rest())
    assert (resting.state, effects) == ("retiring", (life.Terminate(),))
    absent, effects = step(resting, life.Exited("ended"))
    assert (absent.state, absent.idle, effects) == ("absent", True, (life.Await(),))


def test_a_site_that_stops_waits_for_nobodys_wish():
    stopped, effects = step(ROOMLESS, life.Retire())
    assert effects == (life.Terminate(),)
    assert step(stopped, life.Exited("ended"))[1] == ()
