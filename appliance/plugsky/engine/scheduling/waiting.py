"""Who waits for a place: a bounded line per tenant, and the tenants by how far they are behind.

Within a tenant, whoever is *due* first goes first: due is when it came, later by its class and by the compute time it
needs. So short needs and high classes overtake, but only those that came little before them; everyone becomes the
first in time, because newcomers are due ever later. Between tenants, whoever has fewest running for its weight is next,
then whoever was given least compute time.

Each call touches one tenant and costs the logarithm of the line, whatever its length; looking at the first again costs
nothing. One that leaves is left in the heap, marked, until it comes up.
"""

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

from plugsky.engine.scheduling.fairness import Account


@dataclass(slots=True, eq=False)
class Tenant:
    """A tenant with work: its account, and how many of its requests run and wait."""

    account: Account
    running: int = 0
    waiting: int = 0
    virtual: float = 0.0
    """Its account, with what the step under construction will cost it."""
    sat_out: bool = False
    """Whether it had to do without a token in the latest step it had work in."""

    @property
    def idle(self) -> bool:
        """Whether it has no work left."""
        return not self.running and not self.waiting


class Waiter(Protocol):
    """What waits."""

    @property
    def tenant(self) -> Tenant: ...

    @property
    def ticket(self) -> int: ...

    level: int
    due: int
    is_waiting: bool


_Key = tuple[float, float, int]
_Entry = tuple[_Key, int, Tenant]
WaiterT = TypeVar("WaiterT", bound=Waiter)


@dataclass(slots=True, eq=False)
class _Line(Generic[WaiterT]):
    heap: list[tuple[int, int, WaiterT]] = field(default_factory=list)
    entry: "_Entry | None" = None


class WaitingLine(Generic[WaiterT]):
    """Everyone who waits."""

    def __init__(self) -> None:
        self._lines: dict[Tenant, _Line[WaiterT]] = {}
        self._tenants: list[_Entry] = []
        self._number: Final = count()
        self._length = 0
        self.by_level = [0, 0, 0]
        """How many of each class wait, interactive ones first."""

    def __len__(self) -> int:
        return self._length

    def add(self, waiter: WaiterT) -> None:
        """Join the line."""
        tenant = waiter.tenant
        waiter.is_waiting = True
        tenant.waiting += 1
        self._length += 1
        self.by_level[waiter.level] += 1
        line = self._lines.setdefault(tenant, _Line())
        heapq.heappush(line.heap, (waiter.due, waiter.ticket, waiter))
        self._enter(tenant, line)

    def leave(self, waiter: WaiterT) -> None:
        """Leave the line: it got a place, or its request ended."""
        waiter.is_waiting = False
        waiter.tenant.waiting -= 1
        self._length -= 1
        self.by_level[waiter.level] -= 1
        if not waiter.tenant.waiting:
            del self._lines[waiter.tenant]

    def refresh(self, tenant: Tenant) -> None:
        """One of the tenant's requests stopped running."""
        line = self._lines.get(tenant)
        if line is not None:
            self._enter(tenant, line)

    def first(self) -> WaiterT | None:
        """Whose turn it is."""
        while self._tenants:
            entry = self._tenants[0]
            key, _, tenant = entry
            line = self._lines.get(tenant)
            if line is None or line.entry is not entry:
                heapq.heappop(self._tenants)
            elif key == self._key(tenant, line):
                return line.heap[0][2]
            else:
                self._enter(tenant, line)
        return None

    def _key(self, tenant: Tenant, line: _Line[WaiterT]) -> _Key:
        while not line.heap[0][2].is_waiting:
            heapq.heappop(line.heap)
        account = tenant.account
        return tenant.running / account.weight, account.served, line.heap[0][0]

    def _enter(self, tenant: Tenant, line: _Line[WaiterT]) -> None:
        """Have the tenant in the heap under its present key, unless it is there already."""
        key = self._key(tenant, line)
        if line.entry is None or line.entry[0] != key:
            line.entry = (key, next(self._number), tenant)
            heapq.heappush(self._tenants, line.entry)
