"""Equal shares of compute time for tenants: deficit round robin with weights, on measured time.

Each tenant has an account of the compute time it was given, divided by its weight. The tenant furthest behind goes
first; one that is ahead of the one furthest behind by more than a *slack* waits. This is deficit round robin with the
smallest quantum that still fills a step, told as virtual time: the distance to the level is the (negative) deficit.

Guarantees, while tenants X and Y both have work all the time:

1. Their accounts differ by at most the slack and the cost of what one step gives one tenant.
2. A tenant that was idle comes back with at most ``credit_us`` in hand: idling is no way to save up, and a newcomer is
   served at once. What it has used of that, it has again only when the others were given as much: going and coming
   back at once is no way to get it anew.
3. Nothing is kept for tenants without work, but for the account of those who have not all their credit in hand, and of
   these at most :data:`REMEMBERED`.
"""

from typing import Final

REMEMBERED: Final = 1024


class Account:
    """One tenant's: ``served`` is compute time in µs over weight. ``weight`` is that of its latest request.

    ``credit_us`` is how far behind the level it may start.
    """

    __slots__ = ("credit_us", "served", "tenant", "weight")

    def __init__(self, tenant: str, served: float, credit_us: float) -> None:
        self.tenant = tenant
        self.served = served
        self.credit_us = credit_us
        self.weight = 1

    def charge(self, us: float) -> None:
        """The tenant was given ``us`` of compute time."""
        self.served += us / self.weight


class Accounts:
    """The accounts of tenants with work, and the level that newcomers start from."""

    def __init__(self) -> None:
        self._open: dict[str, Account] = {}
        self._closed: dict[str, float] = {}
        self._level = 0.0

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._open

    def __len__(self) -> int:
        return len(self._open)

    def open(self, tenant: str, credit_us: float) -> Account:
        """The account of a tenant with work; a tenant that had none starts at most ``credit_us`` behind the level."""
        account = self._open.get(tenant)
        if account is None:
            before = self._closed.pop(tenant, 0.0)
            account = self._open[tenant] = Account(tenant, max(before, self._level - credit_us), credit_us)
        return account

    def close(self, tenant: str) -> None:
        """The tenant has no work left."""
        account = self._open.pop(tenant)
        if not self._open:
            self._level = max(self._level, account.served)
        if account.served > self._level - account.credit_us:
            self._closed[tenant] = account.served
            while len(self._closed) > REMEMBERED:
                del self._closed[next(iter(self._closed))]

    def raise_level(self, floor: float) -> None:
        """``floor`` is the least account of those that compete now."""
        self._level = max(self._level, floor)
