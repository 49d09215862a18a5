"""Whose turn it is, against looking at everybody who waits each time."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugsky.engine.scheduling.fairness import Account
from plugsky.engine.scheduling.waiting import Tenant, WaitingLine


@dataclass(eq=False)
class Waiter:
    tenant: Tenant
    ticket: int
    due: int
    level: int
    is_waiting: bool = False


class Lines(RuleBasedStateMachine):
    """A line beside lists of who waits and who runs."""

    def __init__(self):
        super().__init__()
        self.line = WaitingLine()
        self.tenants = [Tenant(Account(name, 0.0, 0.0)) for name in "abcd"]
        self.waiting, self.running = [], []
        self.next = 0

    @rule(which=st.integers(0, 3), due=st.integers(0, 20), weight=st.integers(1, 3))
    def come(self, which, due, weight):
        self.next += 1
        waiter = Waiter(self.tenants[which], self.next, due, self.next % 3)
        waiter.tenant.account.weight = weight
        self.line.add(waiter)
        self.waiting.append(waiter)

    @precondition(lambda self: self.waiting)
    @rule()
    def run_the_first(self):
        first = self.line.first()
        self.line.leave(first)
        first.tenant.running += 1
        self.waiting.remove(first)
        self.running.append(first)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        self.line.leave(waiter)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), back=st.booleans())
    def stop(self, data, back):
        runner = data.draw(st.sampled_from(self.running))
        self.running.remove(runner)
        runner.tenant.running -= 1
        self.line.refresh(runner.tenant)
        if back:
            self.line.add(runner)
            self.waiting.append(runner)

    @rule(which=st.integers(0, 3), us=st.integers(0, 9))
    def charge(self, which, us):
        self.tenants[which].account.charge(us)

    @invariant()
    def the_first_is_the_first_of_all(self):
        assert len(self.line) == len(self.waiting)
        assert self.line.by_level == [sum(waiter.level == level for waiter in self.waiting) for level in range(3)]
        assert [tenant.waiting for tenant in self.tenants] == [
            sum(waiter.tenant is tenant for waiter in self.waiting) for tenant in self.tenants
        ]
        first = self.line.first()
        if first is None:
            assert not self.waiting
            return
        assert self.rank(first) == min(map(self.rank, self.waiting))
        mine = [waiter for waiter in self.waiting if waiter.tenant is first.tenant]
        assert first is min(mine, key=lambda waiter: (waiter.due, waiter.ticket))

    def rank(self, waiter):
        account = waiter.tenant.account
        return waiter.tenant.running / account.weight, account.served, waiter.due


Lines.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestLines = Lines.TestCase
