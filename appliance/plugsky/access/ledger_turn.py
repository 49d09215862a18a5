"""One writing transaction of the ledger: where entries begin, grow and are closed.

Guarantees: an act that raises :class:`PlugskyError` has changed nothing, so others of the same transaction stand; with
every act the tenant's monthly sums move along. Writers take turns (:mod:`plugsky.state.database`), so what is read here
stays true until the end.

The statements are compiled once and run without the mapper: they are what a request costs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import NoResultFound
from sqlmodel import SQLModel, col

from plugsky.access.quota import exhausted, fits, month_of
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import ServiceClass, Usage
from plugsky.core.principal import Principal
from plugsky.state import ApiKey, LedgerEntry, LedgerState, Tenant, TenantMonth


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
    reasoning_tokens: int
    image_tokens: int
    engine_us: int
    service_class: str
    state: str
    outcome: str
    month: str
    created_us: int
    settled_us: int
    writer: str


_COLUMNS: Final = tuple(field.name for field in fields(LedgerRow))


def _table(model: type[SQLModel]) -> Table:
    table: Table = model.__table__  # type: ignore[attr-defined]  # every mapped class has one
    return table


_Insert = Callable[[Table], sqlite.Insert | postgresql.Insert]
_INSERTS: Final[Mapping[str, _Insert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_ENTRY, _MONTH, _KEY = _table(LedgerEntry).c, _table(TenantMonth).c, _table(ApiKey).c
_OPEN: Final = select(*(_ENTRY[name] for name in (*_COLUMNS, "reserved_tokens"))).where(_ENTRY.job == bindparam("job"))
_LEFT: Final = select(*(_ENTRY[name] for name in (*_COLUMNS, "reserved_tokens"))).where(
    _ENTRY.state == LedgerState.RESERVED, _ENTRY.writer.in_(bindparam("writers", expanding=True))
)
_BUDGET: Final = (
    select(col(Tenant.monthly_tokens), _MONTH.used, _MONTH.reserved)
    .select_from(
        _table(Tenant).outerjoin(
            _table(TenantMonth), (_MONTH.tenant == _table(Tenant).c.id) & (_MONTH.month == bindparam("month"))
        )
    )
    .where(_table(Tenant).c.id == bindparam("tenant"))
)
_GROW: Final = (
    update(_table(LedgerEntry))
    .where(_ENTRY.job == bindparam("of"))
    .values(reserved_tokens=_ENTRY.reserved_tokens + bindparam("tokens"))
)
_CLOSE: Final = (
    update(_table(LedgerEntry))
    .where(_ENTRY.job == bindparam("of"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "reasoning_tokens",
                "image_tokens",
                "engine_us",
                "state",
                "outcome",
                "settled_us",
            )
        }
    )
)
_USED: Final = (
    update(_table(TenantMonth))
    .where(_MONTH.tenant == bindparam("whose"), _MONTH.month == bindparam("when"))
    .values(reserved=_MONTH.reserved - bindparam("released"), used=_MONTH.used + bindparam("counted"))
)
_LAST_USED: Final = update(_table(ApiKey)).where(_KEY.id == bindparam("key")).values(last_used_us=bindparam("at"))
_BEGIN: Final = {
    dialect: insert(_table(LedgerEntry)).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    for dialect, insert in _INSERTS.items()
}
_SET_ASIDE: Final = {
    dialect: insert(_table(TenantMonth))
    .values(tenant=bindparam("whose"), month=bindparam("when"), used=0, reserved=bindparam("tokens"))
    .on_conflict_do_update(
        index_elements=[_MONTH.tenant, _MONTH.month], set_={"reserved": _MONTH.reserved + bindparam("tokens")}
    )
    for dialect, insert in _INSERTS.items()
}


class Turn:
    """Acts of one transaction, on its ``connection``. :meth:`finish` is the last of them."""

    def __init__(self, connection: Connection, clock: Clock, writer: str) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._clock = clock
        self._writer = writer
        self._used: dict[str, int] = {}

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
        month = month_of(now)
        self._check(principal.tenant, month, tokens)
        entry = {
            "job": job,
            "tenant": principal.tenant,
            "key_id": principal.key_id,
            "end_user": end_user,
            "requested_model": requested_model,
            "model": model,
            "digest": digest,
            "service_class": service_class,
            "month": month,
            "reserved_tokens": tokens,
            "created_us": unix_us(now),
            "writer": self._writer,
        }
        if not self._connection.execute(_BEGIN[self._dialect], entry).rowcount:
            raise _conflict(job, "it is in the ledger already")
        self._set_aside(principal.tenant, month, tokens)
        return Reservation(job, principal.tenant, tokens)

    def top_up(self, job: str, tokens: int) -> Reservation:
        """Sets ``tokens`` more aside. Raises QUOTA_EXHAUSTED, or CONFLICT for a job that is not open."""
        entry = self._entry(job)
        if entry["state"] != LedgerState.RESERVED:
            raise _conflict(job, f"it is {entry['state']}")
        self._check(entry["tenant"], entry["month"], tokens)
        self._connection.execute(_GROW, {"of": job, "tokens": tokens})
        self._set_aside(entry["tenant"], entry["month"], tokens)
        return Reservation(job, entry["tenant"], entry["reserved_tokens"] + tokens)

    def settle(self, job: str, usage: Usage, outcome: str) -> LedgerRow:
        """Closes a job with what the engine counted. Raises CONFLICT when it was closed with other counts."""
        entry = self._entry(job)
        if entry["state"] != LedgerState.RESERVED:
            row = _row(entry)
            if entry["state"] != LedgerState.SETTLED or _counts(row) != usage:
                raise _conflict(job, f"it is {entry['state']} with other counts")
            return row
        row = self._close(entry, LedgerState.SETTLED, outcome, usage)
        self._used[row.key_id] = row.settled_us
        return row

    def recover(self, writers: Iterable[str]) -> tuple[LedgerRow, ...]:
        """Closes what these writers left reserved, none of whom may be writing any more; charges nothing."""
        left = self._connection.execute(_LEFT, {"writers": list(writers)}).mappings().all()
        nothing = Usage(prompt_tokens=0, completion_tokens=0)
        return tuple(self._close(entry, LedgerState.RECOVERED, "engine_lost", nothing) for entry in left)

    def finish(self) -> None:
        """Note of each key when it was last used: once, however many requests it had."""
        for key, at in self._used.items():
            self._connection.execute(_LAST_USED, {"key": key, "at": at})

    def _entry(self, job: str) -> RowMapping:
        entry = self._connection.execute(_OPEN, {"job": job}).mappings().first()
        if entry is None:
            raise PlugskyError(ErrorKind.NOT_FOUND, f"there is no job {job} in the ledger", next="plugsky usage report")
        return entry

    def _check(self, tenant: str, month: str, tokens: int) -> None:
        found = self._connection.execute(_BUDGET, {"tenant": tenant, "month": month}).first()
        if found is None:
            raise NoResultFound
        budget, used, reserved = found
        if budget is not None and not fits(budget, used or 0, reserved or 0, tokens):
            raise exhausted(tenant, budget, used or 0, reserved or 0, tokens, self._clock.now())

    def _set_aside(self, tenant: str, month: str, tokens: int) -> None:
        self._connection.execute(_SET_ASIDE[self._dialect], {"whose": tenant, "when": month, "tokens": tokens})

    def _close(self, entry: RowMapping, state: str, outcome: str, usage: Usage) -> LedgerRow:
        closed: dict[str, Any] = {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "image_tokens": usage.image_tokens,
            "engine_us": usage.engine_us,
            "state": state,
            "outcome": outcome,
            "settled_us": unix_us(self._clock.now()),
        }
        counted = usage.prompt_tokens + usage.completion_tokens
        sums = {"released": entry["reserved_tokens"], "counted": counted}
        moved = self._connection.execute(_USED, {"whose": entry["tenant"], "when": entry["month"], **sums})
        if moved.rowcount != 1:
            raise NoResultFound
        self._connection.execute(_CLOSE, {"of": entry["job"], **closed})
        return _row({**entry, **closed})


def _conflict(job: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.CONFLICT, f"the ledger cannot take that of job {job}", why=why)


def _counts(row: LedgerRow) -> Usage:
    details = (row.engine_us, row.reasoning_tokens, row.image_tokens)
    return Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens, *details)


def _row(entry: Any) -> LedgerRow:
    return LedgerRow(*(entry[name] for name in _COLUMNS))
