"""The life of a batch: validating -> in_progress -> finalizing -> completed; or failed, cancelled, expired.

Guarantees: a batch is in one state, and every change of it is one transaction; what was asked to end is ``cancelling``
until its last line is written; a batch that a killed process left behind is found by :meth:`Batches.under_way` and goes
on. A tenant sees its own only.

Every method uses the database: call them in a thread, not on an event loop.
"""

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import col

from plugsky.batches.files import UNDER_WAY, Files
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import new_id
from plugsky.core.principal import Principal
from plugsky.state import Batch, Database

WINDOW_US: Final = 24 * 3_600_000_000
MAX_UNDER_WAY: Final = 64
"""Batches that one tenant may have under way."""


@dataclass(frozen=True)
class BatchRecord:
    """A batch as it stands. Times in microseconds since the Unix epoch; ``problems`` say what its input has wrong."""

    id: str
    tenant: str
    key_id: str
    endpoint: str
    input: str
    output: str
    errors: str
    metadata: Mapping[str, str]
    status: str
    total: int
    completed: int
    failed: int
    problems: Sequence[Mapping[str, Any]]
    created_us: int
    expires_us: int
    started_us: int | None
    cancelling_us: int | None
    ended_us: int | None


class Batches:
    """The batches of one site."""

    def __init__(self, database: Database, files: Files, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._clock = clock

    def create(self, principal: Principal, input_id: str, endpoint: str, metadata: Mapping[str, str]) -> BatchRecord:
        """A batch of the requests in a file of the same tenant. Raises NOT_FOUND, and QUOTA_EXHAUSTED for too many."""
        self._files.get(principal.tenant, input_id)
        now = unix_us(self._clock.now())
        row = Batch(
            id=f"batch_{new_id()}",
            tenant=principal.tenant,
            key_id=principal.key_id,
            endpoint=endpoint,
            input=input_id,
            output=f"file-{new_id()}",
            errors=f"file-{new_id()}",
            metadata_json=json.dumps(dict(metadata)),
            created_us=now,
            expires_us=now + WINDOW_US,
        )
        with self._database.write() as session:
            open_now = session.scalar(
                select(func.count()).where(col(Batch.tenant) == principal.tenant, col(Batch.status).in_(UNDER_WAY))
            )
            if (open_now or 0) >= MAX_UNDER_WAY:
                raise PlugskyError(
                    ErrorKind.QUOTA_EXHAUSTED,
                    f"This tenant has {MAX_UNDER_WAY} batches under way, which is the limit",
                    next="wait for the end of one, or cancel one",
                )
            session.add(row)
            session.flush()
            return _record(row)

    def get(self, tenant: str, batch_id: str) -> BatchRecord:
        """A tenant's batch. Raises NOT_FOUND for one that it has not."""
        with self._database.read() as session:
            row = session.get(Batch, batch_id)
        if row is None or row.tenant != tenant:
            raise PlugskyError(
                ErrorKind.NOT_FOUND, "There is no batch of that id", next="GET /v1/batches lists your batches"
            )
        return _record(row)

    def list(self, tenant: str, after: str | None, limit: int) -> list[BatchRecord]:
        """At most ``limit`` of a tenant's batches older than ``after``, the newest first."""
        query = select(Batch).where(col(Batch.tenant) == tenant)
        if after is not None:
            query = query.where(col(Batch.id) < after)
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(query.order_by(col(Batch.id).desc()).limit(limit))]

    def under_way(self) -> "builtins.list[BatchRecord]":
        """Every batch that is not over, the oldest first."""
        with self._database.read() as session:
            rows = session.scalars(select(Batch).where(col(Batch.status).in_(UNDER_WAY)).order_by(col(Batch.id)))
            return [_record(row) for row in rows]

    def cancel(self, tenant: str, batch_id: str) -> BatchRecord:
        """Ask a batch to end; one that is over stays as it is."""
        self.get(tenant, batch_id)
        with self._database.write() as session:
            row = session.get_one(Batch, batch_id)
            if row.status in ("validating", "in_progress"):
                row.status, row.cancelling_us = "cancelling", unix_us(self._clock.now())
                session.add(row)
                session.flush()
            return _record(row)

    def begun(self, batch_id: str, total: int) -> BatchRecord:
        """Its input was found right: so many requests."""
        with self._database.write() as session:
            row = session.get_one(Batch, batch_id)
            row.total = total
            if row.status == "validating":
                row.status, row.started_us = "in_progress", unix_us(self._clock.now())
            session.add(row)
            session.flush()
            return _record(row)

    def progressed(self, batch_id: str, completed: int, failed: int) -> None:
        """So many requests are over."""
        with self._database.write() as session:
            row = session.get_one(Batch, batch_id)
            row.completed, row.failed = completed, failed
            session.add(row)

    def ended(
        self,
        batch_id: str,
        status: str,
        counts: tuple[int, int] = (0, 0),
        problems: Sequence[Mapping[str, Any]] = (),
        sizes: Mapping[str, int] | None = None,
    ) -> BatchRecord:
        """It is over: ``completed``, ``failed``, ``cancelled`` or ``expired``.

        ``sizes`` are the bytes of the files of its answers, by their ids, which become files of the tenant with that.
        """
        with self._database.write() as session:
            row = session.get_one(Batch, batch_id)
            row.status, row.ended_us = status, unix_us(self._clock.now())
            row.completed, row.failed = counts
            row.problem = json.dumps(list(problems))
            for file_id, size in (sizes or {}).items():
                name = f"{row.id}_{'output' if file_id == row.output else 'errors'}.jsonl"
                session.add(self._files.row(file_id, row.tenant, row.key_id, name, "batch_output", size))
            if not sizes or row.output not in sizes:
                row.output = ""
            if not sizes or row.errors not in sizes:
                row.errors = ""
            session.add(row)
            session.flush()
            return _record(row)


def _record(row: Batch) -> BatchRecord:
    return BatchRecord(
        id=row.id,
        tenant=row.tenant,
        key_id=row.key_id,
        endpoint=row.endpoint,
        input=row.input,
        output=row.output,
        errors=row.errors,
        metadata=json.loads(row.metadata_json),
        status=row.status,
        total=row.total,
        completed=row.completed,
        failed=row.failed,
        problems=json.loads(row.problem),
        created_us=row.created_us,
        expires_us=row.expires_us,
        started_us=row.started_us,
        cancelling_us=row.cancelling_us,
        ended_us=row.ended_us,
    )
