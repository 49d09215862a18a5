"""Tenants: who is billed, with their budgets, their share of the engines and their limits.

A tenant is made by its first key, or here. What is changed counts for requests that begin half a second later or more
(:data:`plugsky.access.keys.FRESH_US`). Every method uses the database: call them in a thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlmodel import col

from plugsky.access.checked import checked_number, checked_rate, checked_tenant
from plugsky.access.quota import month_of
from plugsky.core.clock import Clock, unix_us
from plugsky.core.principal import Rate
from plugsky.state import Database, Tenant, TenantMonth

MAX_WEIGHT: Final = 100
MAX_BUDGET: Final = 10**15


@dataclass(frozen=True)
class Terms:
    """What a tenant may have. ``monthly_tokens`` None: no budget; ``weight``: its share beside others, 1 to 100."""

    monthly_tokens: int | None
    weight: int
    rate: Rate


@dataclass(frozen=True)
class TenantRecord:
    """A tenant with its terms, and the tokens of this UTC month: used, and set aside for what runs."""

    id: str
    created_us: int
    terms: Terms
    used: int = 0
    reserved: int = 0


Witness = Callable[[TenantRecord], object]
"""Called inside the transaction, before it commits; what it raises undoes the change."""


class Tenants:
    """The tenants of one site."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def list(self) -> tuple[TenantRecord, ...]:
        """Every tenant, by name."""
        month = month_of(self._clock.now())
        with self._database.read() as session:
            sums = {
                row.tenant: row for row in session.scalars(select(TenantMonth).where(col(TenantMonth.month) == month))
            }
            rows = list(session.scalars(select(Tenant).order_by(col(Tenant.id))))
        return tuple(_record(row, sums.get(row.id)) for row in rows)

    def set(self, tenant: str, change: Callable[[Terms], Terms], witness: Witness | None = None) -> TenantRecord:
        """Give a tenant the terms that ``change`` makes of those it has; it is made where it is not there.

        Raises BAD_REQUEST for a term out of range.
        """
        checked_tenant(tenant)
        now = self._clock.now()
        with self._database.write() as session:
            row = session.get(Tenant, tenant)
            if row is None:
                row = Tenant(id=tenant, created_us=unix_us(now))
            terms = change(_terms(row))
            checked_number("monthly_tokens", terms.monthly_tokens, MAX_BUDGET)
            checked_number("weight", terms.weight, MAX_WEIGHT)
            checked_rate(terms.rate)
            row.monthly_tokens, row.weight = terms.monthly_tokens, terms.weight
            row.requests_per_minute = terms.rate.requests_per_minute
            row.tokens_per_minute = terms.rate.tokens_per_minute
            row.concurrency = terms.rate.concurrency
            session.add(row)
            session.flush()
            record = _record(row, session.get(TenantMonth, (tenant, month_of(now))))
            if witness is not None:
                witness(record)
        return record


def _terms(row: Tenant) -> Terms:
    return Terms(row.monthly_tokens, row.weight, Rate(row.requests_per_minute, row.tokens_per_minute, row.concurrency))


def _record(row: Tenant, sums: TenantMonth | None) -> TenantRecord:
    used, reserved = (sums.used, sums.reserved) if sums is not None else (0, 0)
    return TenantRecord(row.id, row.created_us, _terms(row), used, reserved)
