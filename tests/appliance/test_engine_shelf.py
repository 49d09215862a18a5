"""What ended requests left moves to host memory and comes back, to the token, on a context followed cell by cell."""

import pytest

from appliance.cell_context import CellContext
from plugsky.engine.scheduling import kv_cache
from plugsky.engine.scheduling.kv_cache import KvCache
from plugsky.engine.scheduling.plan import Chunk, Forget, Save
from plugsky.engine.scheduling.prefix import TokenBuffer

SYSTEM = list(range(100, 140))


class Cache:
    """A cache and the context that carries out what it says."""

    def __init__(self, cells=400, sequences=8, saved=1000, reuse="prefix"):
        self.kv = KvCache(cells, sequences, saved, reuse)
        self.context = CellContext(cells, sequences)
        self.seen = []

    def apply(self):
        ops = self.kv.take_ops()
        self.seen += ops
        self.context.apply(ops)

    def run(self, tokens, root="a"):
        """A request that computes all of ``tokens``; how many it found, and its sequence."""
        buffer = TokenBuffer(tokens)
        resident = self.kv.enter(root, buffer, self.kv.match([root], buffer, len(tokens) - 1), len(tokens) - 1)
        found = resident.computed
        self.apply()
        assert self.context.tokens(resident.seq) == tokens[:found], "what was found is right to the token"
        assert self.kv.make_room(len(tokens) - found)
        self.apply()
        assert self.context.compute([Chunk(1, resident.seq, found, tokens[found:], 1)])
        self.kv.extend([(resident, len(tokens) - found)])
        return found, resident

    def ask(self, tokens, root="a"):
        """A request from its beginning to its end; how many of its tokens were found."""
        found, resident = self.run(tokens, root)
        self.kv.park(resident)
        self.apply()
        return found

    def clear_away(self, times=20):
        for _ in range(times):
            self.kv.clear_away()
        self.apply()
        assert self.kv.map.used == self.context.used()
        assert self.kv.saved == sum(map(len, self.context.saved.values()))


@pytest.fixture(autouse=True)
def _nothing_stays_in_the_cache(monkeypatch):
    monkeypatch.setattr(kv_cache, "PARKED_MIN", 0)


def told(tenant, turns):
    return [token + 1000 * tenant for token in range(50 * turns)]


def test_quiet_conversations_leave_the_cache_and_go_on_where_they_ended():
    cache = Cache()
    for tenant in range(3):
        assert cache.ask(told(tenant, 1)) == 0
    cache.clear_away()
    assert cache.kv.map.used == 0
    for tenant in range(3):
        assert cache.ask(told(tenant, 2)) == 50
    cache.clear_away()
    assert [cache.ask(told(tenant, 3)) for tenant in range(3)] == [100, 100, 100]


def test_what_is_parked_stays_in_the_cache_while_more_is_in_use():
    cache = Cache()
    _, running = cache.run(told(1, 3))
    cache.ask(told(2, 1))
    cache.clear_away()
    assert cache.kv.saved == 0
    cache.kv.park(running)
    cache.apply()
    cache.clear_away()
    assert cache.kv.saved == 200


def test_a_common_system_prompt_is_saved_once_and_every_end_finds_it():
    cache = Cache()
    ends = [[*SYSTEM, *told(tenant, 1)] for tenant in range(1, 5)]
    for end in ends:
        cache.ask(end)
    cache.clear_away()
    assert cache.kv.map.used == 0
    assert cache.kv.saved == 40 + 4 * 50
    for end in ends:
        assert cache.ask([*end, 7, 8]) == 90


def test_a_request_that_leaves_the_common_way_leaves_the_copy_to_others():
    cache = Cache()
    cache.ask(told(1, 2))
    cache.clear_away()
    assert cache.ask([*told(1, 2)[:60], 5, 6]) == 60
    assert cache.kv.saved == 100
    cache.clear_away()
    assert cache.ask([*told(1, 2), 7]) == 100


def test_a_full_cache_gives_up_what_was_used_longest_ago():
    cache = Cache(saved=0)
    first, second, third = ([token + 1000 * number for token in range(60)] for number in range(3))
    for tokens in (first, second, third):
        cache.ask(tokens)
    cache.ask([*first, 7])
    assert cache.kv.make_room(cache.kv.map.free + 1)
    cache.apply()
    assert [cache.run([*tokens, 8])[0] for tokens in (first, third, second)] == [60, 60, 0]


def test_copies_never_hold_more_cells_than_they_may():
    cache = Cache(saved=150)
    for number in range(20):
        cache.ask([token + 1000 * number for token in range(60)])
        cache.clear_away()
        assert cache.kv.saved <= 150
    assert cache.kv.saved > 0


def test_the_same_beginning_is_not_saved_twice():
    cache = Cache()
    for _ in range(3):
        cache.ask(told(1, 1))
        cache.clear_away()
    assert cache.kv.saved == 50
    assert sum(isinstance(op, Save) for op in cache.seen) == 1


def test_copies_are_of_no_use_under_another_root():
    cache = Cache()
    cache.ask(told(1, 1), root="a")
    cache.clear_away()
    assert cache.ask(told(1, 2), root="b") == 0
    assert cache.ask(told(1, 2), root="a") == 50


def test_what_was_used_longest_ago_gives_way_when_host_memory_is_full():
    cache = Cache(saved=120)
    for tenant in (1, 2):
        cache.ask(told(tenant, 1))
        cache.clear_away()
    assert cache.ask([*told(1, 1)[:40], 3]) == 40
    cache.ask(told(3, 1))
    cache.clear_away()
    assert cache.kv.saved <= 120
    assert any(isinstance(op, Forget) for op in cache.seen)
    assert cache.ask([*told(2, 1), 3]) == 0
    assert cache.ask([*told(3, 1), 3]) == 50


def test_a_task_that_comes_back_goes_before_what_ended_requests_left():
    cache = Cache(saved=60)
    cache.ask(told(1, 1))
    cache.clear_away()
    _, running = cache.run(told(2, 1))
    cache.kv.suspend(9, running)
    cache.apply()
    assert cache.kv.tail(9) == (0, 50)
    assert not len(cache.kv.shelf)


def test_a_full_cache_saves_what_it_evicts():
    cache = Cache(cells=160)
    cache.ask(told(1, 1))
    cache.ask(told(2, 1)[:30])
    _, running = cache.run(told(3, 3))
    assert cache.kv.map.parked == 0
    cache.kv.drop(running)
    cache.apply()
    assert cache.ask([*told(1, 1), 4]) == 50


def test_there_is_no_copy_of_what_a_model_cannot_cut():
    cache = Cache(reuse="whole")
    cache.ask(told(1, 1))
    cache.clear_away()
    assert cache.kv.saved == 0
    assert cache.kv.map.parked == 50
    assert cache.ask(told(1, 2)) == 50
