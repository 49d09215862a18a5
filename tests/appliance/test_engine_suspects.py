"""Who killed the engine: no request is lost, one suspect at a time, and nobody is blamed who was not twice alone."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugsky.engine.clients.suspects import GUILTY, MAX_LOSSES, PROBATION, Suspects


def with_requests(*numbers):
    suspects = Suspects()
    for number in numbers:
        suspects.begin(number)
    return suspects


def crash(suspects):
    suspects.disconnected()
    return suspects.reconnected(crashed=True)


def test_requests_are_sent_as_they_come():
    suspects = Suspects()
    assert [suspects.begin(number).send for number in (1, 2)] == [(1,), (2,)]


def test_after_a_crash_they_are_tried_one_at_a_time_the_newest_first():
    suspects = with_requests(1, 2, 3)
    assert crash(suspects).send == (3,)
    assert suspects.progressed(3, PROBATION - 1).send == ()
    assert suspects.progressed(3, 1).send == (2,)
    assert suspects.ended(2).send == (1,)
    assert suspects.suspicious
    suspects.progressed(1, PROBATION)
    assert not suspects.suspicious


def test_what_comes_meanwhile_waits_until_all_are_cleared():
    suspects = with_requests(1)
    crash(suspects)
    assert suspects.begin(2).send == ()
    assert suspects.waiting == 1
    assert suspects.progressed(1, PROBATION).send == (2,)


def test_two_crashes_alone_are_one_ones_guilt_and_the_others_go_on_together():
    suspects = with_requests(1, 2, 3)
    assert crash(suspects).send == (3,)
    assert crash(suspects).send == (3,)
    orders = crash(suspects)
    assert orders.fail == ((3, "guilty"),)
    assert orders.send == (1, 2)


def test_a_crash_with_cleared_neighbours_blames_nobody_but_points_at_the_one_that_was_tried():
    suspects = with_requests(1, 2, 3)
    crash(suspects)
    suspects.progressed(3, PROBATION)
    assert suspects.tried == 2
    orders = crash(suspects)
    assert (orders.send, orders.fail) == ((2,), ())
    crash(suspects)
    assert crash(suspects).fail == ((2, "guilty"),)


def test_a_connection_that_ends_while_the_engine_lives_makes_no_suspects():
    suspects = with_requests(1, 2)
    suspects.disconnected()
    orders = suspects.reconnected(crashed=False)
    assert (orders.send, orders.fail, suspects.suspicious) == ((1, 2), (), False)


def test_a_request_that_is_always_there_when_the_engine_is_lost_fails_in_the_end():
    suspects = with_requests(1, 2)
    for _ in range(MAX_LOSSES - 1):
        suspects.disconnected()
        assert suspects.reconnected(crashed=False).fail == ()
    suspects.disconnected()
    assert suspects.reconnected(crashed=False).fail == ((1, "lost"), (2, "lost"))


def test_a_suspect_that_is_wanted_no_longer_makes_way():
    suspects = with_requests(1, 2)
    crash(suspects)
    assert suspects.ended(2).send == (1,)
    assert suspects.ended(2).send == ()


class Crashes(RuleBasedStateMachine):
    """Any requests, progress, ends, crashes and losses; what the edge sees is kept beside and compared."""

    def __init__(self):
        super().__init__()
        self.suspects = Suspects()
        self.alive = set()
        self.sent = set()
        self.alone = {}
        self.connected = True
        self.number = 0

    def take(self, orders):
        for number, blame in orders.fail:
            assert number in self.alive
            assert blame == "lost" or self.alone[number] == GUILTY
            self.alive.discard(number)
        for number in orders.send:
            assert number in self.alive
            assert number not in self.sent
            self.sent.add(number)

    @rule()
    def begin(self):
        self.number += 1
        self.alive.add(self.number)
        self.alone[self.number] = 0
        self.take(self.suspects.begin(self.number))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), tokens=st.integers(1, 5))
    def progress(self, data, tokens):
        self.take(self.suspects.progressed(data.draw(st.sampled_from(sorted(self.sent))), tokens))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def end(self, data):
        number = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(number)
        self.sent.discard(number)
        self.take(self.suspects.ended(number))

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self):
        self.connected = False
        self.with_engine = set(self.sent)
        self.suspects.disconnected()

    @precondition(lambda self: not self.connected and self.sent)
    @rule(data=st.data())
    def turn_away(self, data):
        number = data.draw(st.sampled_from(sorted(self.sent)))
        self.sent.discard(number)
        self.suspects.turned_away(number)

    @precondition(lambda self: not self.connected)
    @rule(crashed=st.booleans())
    def reconnect(self, crashed):
        lost = self.sent & self.alive
        if crashed and len(lost) == 1:
            self.alone[next(iter(lost))] += 1
        self.connected, self.sent = True, set()
        self.take(self.suspects.reconnected(crashed=crashed))

    @invariant()
    def no_request_is_lost(self):
        assert self.suspects.sent == self.sent
        assert len(self.alive) == len(self.sent) + self.suspects.waiting

    @invariant()
    def something_is_always_under_way(self):
        assert not self.connected or not self.alive or self.sent

    @invariant()
    def one_suspect_at_a_time(self):
        assert self.suspects.tried is None or self.suspects.tried in self.sent

    def teardown(self):
        """Whatever happened: when nothing more goes wrong, every request gets to its end."""
        if not self.connected:
            self.reconnect(crashed=True)
        while self.alive:
            number = min(self.sent)
            self.alive.discard(number)
            self.sent.discard(number)
            self.take(self.suspects.ended(number))


TestCrashes = Crashes.TestCase
