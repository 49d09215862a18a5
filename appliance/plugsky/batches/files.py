"""Files of tenants: their bytes on disk, 0600, and a row for each in the database.

Guarantees: a file is there whole or not at all, since its row is written after its bytes are on disk; a tenant sees its
own only, and another's is *not found* like one that never was; what a tenant holds is bounded; and what has neither a
row nor a batch behind it is removed by :meth:`Files.sweep`.

Every method uses the disk or the database: call them in a thread, not on an event loop.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import new_id
from plugsky.core.policy import Limits
from plugsky.core.principal import Principal
from plugsky.state import Batch, Database, StoredFile

UNDER_WAY: Final = ("validating", "in_progress", "finalizing", "cancelling")
"""The states of a batch that is not over."""
MAX_NAME: Final = 255
_DAY_US: Final = 86_400_000_000
_HOUR_US: Final = 3_600_000_000
_UPLOAD: Final = ".upload-"


@dataclass(frozen=True)
class FileRecord:
    """A file as it may be shown. Times in microseconds since the Unix epoch."""

    id: str
    tenant: str
    name: str
    purpose: str
    size: int
    created_us: int
    expires_us: int


class Upload:
    """A file that is being written. Closing it without :meth:`Files.keep` leaves nothing behind."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.size = 0
        self._limit = limit
        self._file: BinaryIO = os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        )

    def write(self, data: bytes) -> None:
        """Add bytes. Raises TOO_LARGE above the limit."""
        self.size += len(data)
        if self.size > self._limit:
            raise PlugskyError(ErrorKind.TOO_LARGE, f"The file is over the limit of {self._limit} bytes", param="file")
        self._file.write(data)

    def settle(self) -> None:
        """Put what was written on the disk itself."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        """Let go of it; what was not kept is removed."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class Files:
    """The files of one site, under ``folder``."""

    def __init__(self, database: Database, folder: Path, clock: Clock, limits: Limits) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._limits = limits
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, tenant: str) -> Upload:
        """A file to write to, as long as the tenant has room for one. Raises QUOTA_EXHAUSTED."""
        with self._database.read() as session:
            self._check_room(session, tenant, 1)
        return Upload(self._folder / f"{_UPLOAD}{new_id()}", self._limits.max_file_bytes)

    def keep(
        self, upload: Upload, principal: Principal, name: str, purpose: str, lifetime_s: int | None = None
    ) -> FileRecord:
        """Make a file of what was written. Raises QUOTA_EXHAUSTED where there is no room for it any more."""
        upload.settle()
        row = self.row(f"file-{new_id()}", principal.tenant, principal.key_id, name, purpose, upload.size)
        if lifetime_s is not None:
            row.expires_us = row.created_us + lifetime_s * 1_000_000
        upload.path.rename(self.path(row.id))
        sync_folder(self._folder)
        try:
            with self._database.write() as session:
                self._check_room(session, principal.tenant, upload.size)
                session.add(row)
                session.flush()
                return _record(row)
        except BaseException:
            self.path(row.id).unlink(missing_ok=True)
            raise

    def row(self, file_id: str, tenant: str, key_id: str, name: str, purpose: str, size: int) -> StoredFile:
        """The row of a file whose bytes are on disk, not yet in the database."""
        now = unix_us(self._clock.now())
        return StoredFile(
            id=file_id,
            tenant=tenant,
            key_id=key_id,
            name=name[:MAX_NAME],
            purpose=purpose,
            size=size,
            created_us=now,
            expires_us=now + self._limits.file_days * _DAY_US,
        )

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file lie. ``file_id`` is one of the database, never a client's word."""
        return self._folder / file_id

    def get(self, tenant: str, file_id: str) -> FileRecord:
        """A tenant's file. Raises NOT_FOUND for one that it has not."""
        with self._database.read() as session:
            row = session.get(StoredFile, file_id)
        if row is None or row.tenant != tenant or row.expires_us <= unix_us(self._clock.now()):
            raise _no_file()
        return _record(row)

    def list(
        self, tenant: str, purpose: str | None, after: str | None, limit: int, *, newest: bool
    ) -> list[FileRecord]:
        """At most ``limit`` of a tenant's files behind ``after``, by the moment they were made. Ids sort by it."""
        query = select(StoredFile).where(
            col(StoredFile.tenant) == tenant, col(StoredFile.expires_us) > unix_us(self._clock.now())
        )
        if purpose is not None:
            query = query.where(col(StoredFile.purpose) == purpose)
        if after is not None:
            query = query.where(col(StoredFile.id) < after if newest else col(StoredFile.id) > after)
        order = col(StoredFile.id).desc() if newest else col(StoredFile.id).asc()
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(query.order_by(order).limit(limit))]

    def open(self, tenant: str, file_id: str) -> tuple[FileRecord, BinaryIO]:
        """A tenant's file, to be read. Raises NOT_FOUND."""
        record = self.get(tenant, file_id)
        try:
            return record, self.path(record.id).open("rb")
        except FileNotFoundError:
            raise _no_file() from None

    def delete(self, tenant: str, file_id: str) -> FileRecord:
        """Remove a tenant's file. Raises NOT_FOUND, and CONFLICT while a batch reads it."""
        record = self.get(tenant, file_id)
        with self._database.write() as session:
            used = session.scalar(
                select(col(Batch.id)).where(col(Batch.input) == file_id, col(Batch.status).in_(UNDER_WAY)).limit(1)
            )
            if used is not None:
                raise PlugskyError(
                    ErrorKind.CONFLICT,
                    f"The file {file_id} is being read by the batch {used}",
                    next="cancel the batch first, or wait for its end",
                )
            session.execute(delete(StoredFile).where(col(StoredFile.id) == file_id))
        self.path(file_id).unlink(missing_ok=True)
        return record

    def sweep(self) -> None:
        """Remove what has expired, and what a process that was killed left half made an hour ago or more."""
        now = unix_us(self._clock.now())
        with self._database.write() as session:
            batches = list(session.scalars(select(Batch).where(col(Batch.status).in_(UNDER_WAY))))
            needed = {name for batch in batches for name in (batch.input, batch.output, batch.errors)}
            expired = col(StoredFile.expires_us) <= now
            session.execute(delete(StoredFile).where(expired, col(StoredFile.id).not_in(needed)))
            needed |= set(session.scalars(select(col(StoredFile.id))))
        for path in _files(self._folder):
            with suppress(FileNotFoundError):
                if path.name not in needed and path.stat().st_mtime * 1e6 < now - _HOUR_US:
                    path.unlink()

    def _check_room(self, session: Session, tenant: str, size: int) -> None:
        mine = select(func.count(), func.sum(col(StoredFile.size))).where(col(StoredFile.tenant) == tenant)
        count, held = session.execute(mine).one()
        limits = self._limits
        if count >= limits.max_files or (held or 0) + size > limits.max_stored_bytes:
            raise PlugskyError(
                ErrorKind.QUOTA_EXHAUSTED,
                f"A tenant may keep {limits.max_files} files and {limits.max_stored_bytes} bytes in them; "
                f"this one has {count} and {held or 0}",
                next="delete files that are not needed any more",
            )


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk itself."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())


def _record(row: StoredFile) -> FileRecord:
    return FileRecord(row.id, row.tenant, row.name, row.purpose, row.size, row.created_us, row.expires_us)


def _no_file() -> PlugskyError:
    return PlugskyError(ErrorKind.NOT_FOUND, "There is no file of that id", next="GET /v1/files lists your files")
