"""The usage ledger: the truth about who used what.

The life of an entry: :meth:`Ledger.reserve` before a request may run, :meth:`Ledger.top_up` while it produces,
:meth:`Ledger.settle` with the engine's counts however it ended; :meth:`Ledger.recover` closes what the crash of a
writer left open, charging nothing that no engine counted. Each also moves the tenant's monthly sums in the same
transaction, so at every moment: reserved sum = the open reservations of that month, used sum = its settled tokens. A
refused reservation or top-up changes nothing. Settling twice with the same counts is settling once. Several of these
acts can share a transaction, and its wait for the disk: :meth:`Ledger.turn`.

Every method uses the database: call them in a thread, not on an event loop.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Final

from sqlalchemy import case, func, select
from sqlmodel import col

from plugsky.access.ledger_turn import LedgerRow, Reservation, Turn
from plugsky.access.quota import month_of
from plugsky.core.clock import Clock
from plugsky.core.frames import ServiceClass, Usage
from plugsky.core.principal import Principal
from plugsky.state import Database, LedgerEntry, LedgerState, Tenant, TenantMonth

_BATCH: Final = 1000
_CLOSED: Final = tuple(col(getattr(LedgerEntry, field.name)) for field in fields(LedgerRow))


@dataclass(frozen=True)
class UsageLine:
    """Settled usage of one tenant, key and model."""

    tenant: str
    key_id: str
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    image_tokens: int
    engine_us: int


@dataclass(frozen=True)
class UsageSum:
    """A report: its lines, and how many reservations are open now."""

    lines: tuple[UsageLine, ...]
    open_reservations: int


@dataclass(frozen=True)
class MonthSums:
    """A tenant's sums of one UTC month in tokens: as they are kept for its budget, and as its entries make them."""

    tenant: str
    month: str
    used: int
    reserved: int
    used_by_entries: int
    reserved_by_entries: int


class Ledger:
    """The ledger of one site. ``writer`` names who reserves through this object: its audit chain, one per process."""

    def __init__(self, database: Database, clock: Clock, writer: str) -> None:
        self._database = database
        self._clock = clock
        self._writer = writer

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """A transaction for one act or several, which commits when the block ends and leaves no trace if it raises."""
        with self._database.write() as session:
            turn = Turn(session.connection(), self._clock, self._writer)
            yield turn
            turn.finish()

    def reserve(
        self,
        *,
        job: str,
        principal: Principal,
        requested_model: str,
        model: str,
        digest: str,
        tokens: int,
        service_class: ServiceClass = "standard",
        end_user: str = "",
    ) -> Reservation:
        """Sets ``tokens`` aside. Raises QUOTA_EXHAUSTED where no budget holds them, CONFLICT for a known job."""
        with self.turn() as turn:
            return turn.reserve(
                job=job,
                principal=principal,
                requested_model=requested_model,
                model=model,
                digest=digest,
                tokens=tokens,
                service_class=service_class,
                end_user=end_user,
            )

    def top_up(self, job: str, tokens: int) -> Reservation:
        """Sets ``tokens`` more aside. Raises QUOTA_EXHAUSTED, or CONFLICT for a job that is not open."""
        with self.turn() as turn:
            return turn.top_up(job, tokens)

    def settle(self, job: str, usage: Usage, outcome: str) -> LedgerRow:
        """Closes a job with what the engine counted. Raises CONFLICT when it was closed with other counts."""
        with self.turn() as turn:
            return turn.settle(job, usage, outcome)

    def recover(self, writers: Iterable[str] | None = None) -> tuple[LedgerRow, ...]:
        """Closes what this writer left reserved, or what ``writers`` did, none of whom may be writing any more.

        Call it once, at start, before the first reservation.
        """
        with self.turn() as turn:
            return turn.recover([self._writer] if writers is None else writers)

    def month(self, tenant: str) -> tuple[int, int | None]:
        """Tokens that a tenant has used this month, with those set aside; and its budget of them, None for none."""
        with self._database.read() as session:
            budget = session.scalar(select(col(Tenant.monthly_tokens)).where(col(Tenant.id) == tenant))
            sums = session.get(TenantMonth, (tenant, month_of(self._clock.now())))
            return (0 if sums is None else sums.used + sums.reserved), budget

    def report(self, since_us: int | None = None, until_us: int | None = None, tenant: str | None = None) -> UsageSum:
        """Settled usage with ``since_us <= settled < until_us``, summed by tenant, key and model, in that order."""
        group = (col(LedgerEntry.tenant), col(LedgerEntry.key_id), col(LedgerEntry.model))
        counted = (
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "image_tokens",
            "engine_us",
        )
        sums = (func.coalesce(func.sum(getattr(LedgerEntry, column)), 0) for column in counted)
        settled = [col(LedgerEntry.state) == LedgerState.SETTLED]
        still_open = [col(LedgerEntry.state) == LedgerState.RESERVED]
        if since_us is not None:
            settled.append(col(LedgerEntry.settled_us) >= since_us)
        if until_us is not None:
            settled.append(col(LedgerEntry.settled_us) < until_us)
        if tenant is not None:
            settled.append(col(LedgerEntry.tenant) == tenant)
            still_open.append(col(LedgerEntry.tenant) == tenant)
        with self._database.read() as session:
            rows = session.execute(
                select(*group, func.count(), *sums).where(*settled).group_by(*group).order_by(*group)
            ).all()
            reserved = session.scalar(select(func.count()).select_from(LedgerEntry).where(*still_open))
        lines = (UsageLine(name, key_id, model, *map(int, counts)) for name, key_id, model, *counts in rows)
        return UsageSum(tuple(lines), reserved or 0)

    def closed(self, since_us: int = 0, writer: str | None = None) -> Iterator[LedgerRow]:
        """Every entry, or those of ``writer``, closed at or after ``since_us``; oldest first, read in batches."""
        query = (
            select(*_CLOSED)
            .where(col(LedgerEntry.settled_us) >= since_us)
            .order_by(col(LedgerEntry.settled_us), col(LedgerEntry.job))
            .execution_options(yield_per=_BATCH)
        )
        if writer is not None:
            query = query.where(col(LedgerEntry.writer) == writer)
        with self._database.read() as session:
            for row in session.execute(query):
                yield LedgerRow(*row)

    def sums(self) -> tuple[MonthSums, ...]:
        """Every tenant's months, at one moment of the database."""
        entry, still_open = LedgerEntry, col(LedgerEntry.state) == LedgerState.RESERVED
        tokens = col(entry.prompt_tokens) + col(entry.completion_tokens)
        counted = (
            func.sum(case((still_open, 0), else_=tokens)),
            func.sum(case((still_open, entry.reserved_tokens), else_=0)),
        )
        with self._database.read() as session:
            made = {
                (tenant, month): (int(used), int(reserved))
                for tenant, month, used, reserved in session.execute(
                    select(col(entry.tenant), col(entry.month), *counted).group_by(col(entry.tenant), col(entry.month))
                )
            }
            kept = {(row.tenant, row.month): (row.used, row.reserved) for row in session.scalars(select(TenantMonth))}
        return tuple(MonthSums(*of, *kept.get(of, (0, 0)), *made.get(of, (0, 0))) for of in sorted({*made, *kept}))
