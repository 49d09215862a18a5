"""The usage ledger: the truth about who used what.

The life of an entry: :meth:`Ledger.reserve` before a request may run, :meth:`Ledger.top_up` while it produces,
:meth:`Ledger.settle` with the engine's counts however it ended; :meth:`Ledger.recover` closes what the crash of a
writer left open, charging nothing that no engine counted. Each is one transaction that also moves the tenant's monthly
sums, so at every moment: reserved sum = the open reservations of that month, used sum = its settled tokens. A refused
reservation or top-up changes nothing. Settling twice with the same counts is settling once.

Every method uses the database: call them in a thread, not on an event loop.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from plugsky.access.quota import exhausted, fits, month_of
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import ServiceClass, Usage
from plugsky.core.principal import Principal
from plugsky.state import ApiKey, Database, LedgerEntry, LedgerState, Tenant, TenantMonth

_BATCH: Final = 1000


@dataclass(frozen=True)
class Reservation:
    """Tokens set aside for a job so far."""

    job: str
    tenant: str
    tokens: int


@dataclass(frozen=True)
class LedgerRow:
    """A closed entry. ``outcome`` is a finish reason or the wire name of a failure; times in microseconds, UTC."""

    job: str
    tenant: str
    key_id: str
    end_user: str
    requested_model: str
    model: str
    digest: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    engine_us: int
    service_class: str
    state: str
    outcome: str
    month: str
    created_us: int
    settled_us: int
    writer: str


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
        now = self._clock.now()
        entry = LedgerEntry(
            job=job,
            tenant=principal.tenant,
            key_id=principal.key_id,
            end_user=end_user,
            requested_model=requested_model,
            model=model,
            digest=digest,
            service_class=service_class,
            month=month_of(now),
            reserved_tokens=tokens,
            created_us=unix_us(now),
            writer=self._writer,
        )
        with self._database.write() as session:
            if session.get(LedgerEntry, job) is not None:
                raise _conflict(job, "it is in the ledger already")
            self._set_aside(session, principal.tenant, entry.month, tokens)
            session.add(entry)
        return Reservation(job, principal.tenant, tokens)

    def top_up(self, job: str, tokens: int) -> Reservation:
        """Sets ``tokens`` more aside. Raises QUOTA_EXHAUSTED, or CONFLICT for a job that is not open."""
        with self._database.write() as session:
            entry = _entry(session, job)
            if entry.state != LedgerState.RESERVED:
                raise _conflict(job, f"it is {entry.state}")
            self._set_aside(session, entry.tenant, entry.month, tokens)
            entry.reserved_tokens += tokens
            session.add(entry)
            return Reservation(job, entry.tenant, entry.reserved_tokens)

    def settle(self, job: str, usage: Usage, outcome: str) -> LedgerRow:
        """Closes a job with what the engine counted. Raises CONFLICT when it was closed with other counts."""
        with self._database.write() as session:
            entry = _entry(session, job)
            if entry.state != LedgerState.RESERVED:
                row = _row(entry)
                if entry.state != LedgerState.SETTLED or _counts(row) != usage:
                    raise _conflict(job, f"it is {entry.state} with other counts")
                return row
            entry.prompt_tokens = usage.prompt_tokens
            entry.cached_tokens = usage.cached_tokens
            entry.completion_tokens = usage.completion_tokens
            entry.engine_us = usage.engine_us
            row = self._close(session, entry, LedgerState.SETTLED, outcome)
            session.execute(update(ApiKey).where(col(ApiKey.id) == entry.key_id).values(last_used_us=entry.settled_us))
            return row

    def recover(self, writers: Iterable[str] | None = None) -> tuple[LedgerRow, ...]:
        """Closes what this writer left reserved, or what ``writers`` did, none of whom may be writing any more.

        Call it once, at start, before the first reservation.
        """
        named = [self._writer] if writers is None else list(writers)
        mine = select(LedgerEntry).where(
            col(LedgerEntry.state) == LedgerState.RESERVED, col(LedgerEntry.writer).in_(named)
        )
        with self._database.write() as session:
            return tuple(
                self._close(session, entry, LedgerState.RECOVERED, "engine_lost")
                for entry in session.scalars(mine).all()
            )

    def month(self, tenant: str) -> tuple[int, int | None]:
        """Tokens that a tenant has used this month, with those set aside; and its budget of them, None for none."""
        with self._database.read() as session:
            budget = session.scalar(select(col(Tenant.monthly_tokens)).where(col(Tenant.id) == tenant))
            sums = session.get(TenantMonth, (tenant, month_of(self._clock.now())))
            return (0 if sums is None else sums.used + sums.reserved), budget

    def report(self, since_us: int | None = None, until_us: int | None = None, tenant: str | None = None) -> UsageSum:
        """Settled usage with ``since_us <= settled < until_us``, summed by tenant, key and model, in that order."""
        group = (col(LedgerEntry.tenant), col(LedgerEntry.key_id), col(LedgerEntry.model))
        counted = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_us")
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
            select(LedgerEntry)
            .where(col(LedgerEntry.settled_us) >= since_us)
            .order_by(col(LedgerEntry.settled_us), col(LedgerEntry.job))
            .execution_options(yield_per=_BATCH)
        )
        if writer is not None:
            query = query.where(col(LedgerEntry.writer) == writer)
        with self._database.read() as session:
            for entry in session.scalars(query):
                yield _row(entry)
                session.expunge(entry)

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

    def _set_aside(self, session: Session, tenant: str, month: str, tokens: int) -> None:
        budget = session.scalar(select(col(Tenant.monthly_tokens)).where(col(Tenant.id) == tenant))
        sums = session.get(TenantMonth, (tenant, month), with_for_update=True)
        if sums is None:
            sums = TenantMonth(tenant=tenant, month=month, used=0, reserved=0)
        if budget is not None and not fits(budget, sums.used, sums.reserved, tokens):
            raise exhausted(tenant, budget, sums.used, sums.reserved, tokens, self._clock.now())
        sums.reserved += tokens
        session.add(sums)

    def _close(self, session: Session, entry: LedgerEntry, state: str, outcome: str) -> LedgerRow:
        sums = session.get_one(TenantMonth, (entry.tenant, entry.month), with_for_update=True)
        sums.reserved -= entry.reserved_tokens
        sums.used += entry.prompt_tokens + entry.completion_tokens
        entry.state, entry.outcome = state, outcome
        entry.settled_us = unix_us(self._clock.now())
        session.add_all((sums, entry))
        return _row(entry)


def _entry(session: Session, job: str) -> LedgerEntry:
    entry = session.get(LedgerEntry, job, with_for_update=True)
    if entry is None:
        raise PlugskyError(ErrorKind.NOT_FOUND, f"there is no job {job} in the ledger", next="plugsky usage report")
    return entry


def _conflict(job: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.CONFLICT, f"the ledger cannot take that of job {job}", why=why)


def _counts(row: LedgerRow) -> Usage:
    return Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.engine_us)


def _row(entry: LedgerEntry) -> LedgerRow:
    return LedgerRow(**{field.name: getattr(entry, field.name) for field in fields(LedgerRow)})
