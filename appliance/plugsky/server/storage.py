"""What tenants keep, as the gateway uses it: never on the event loop, every change told to the audit trail.

A change is done first and told then, as the end of a request is; while the trail cannot be written, nothing is changed.
Failures of the disk and the database leave here without their reasons, which name paths of the host.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

from plugsky.audit import AuditLog
from plugsky.audit.events import Fact
from plugsky.batches.batches import Batches, BatchRecord
from plugsky.batches.files import FileRecord, Files, Upload
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.glossaries.glossaries import Glossaries

FILE_CREATE: Final = "file.create"
FILE_DELETE: Final = "file.delete"
BATCH_CREATE: Final = "batch.create"
BATCH_CANCEL: Final = "batch.cancel"
BATCH_END: Final = "batch.end"
UPLOADS: Final = 4
"""Files that one tenant may be sending at a time."""
ResultT = TypeVar("ResultT")
_FOR_CLIENTS: Final = frozenset(
    {ErrorKind.NOT_FOUND, ErrorKind.CONFLICT, ErrorKind.TOO_LARGE, ErrorKind.QUOTA_EXHAUSTED, ErrorKind.BAD_REQUEST}
)
_log: Final = logging.getLogger(__name__)


class Storage:
    """Files, batches and glossaries of one site. ``news`` is set when a batch came, or was asked to end."""

    def __init__(self, files: Files, batches: Batches, glossaries: Glossaries, audit: AuditLog) -> None:
        self.files = files
        self.batches = batches
        self.glossaries = glossaries
        self.news = asyncio.Event()
        self._audit = audit
        self._uploads: Counter[str] = Counter()

    async def ask(self, act: Callable[[], ResultT]) -> ResultT:
        """What ``act`` finds, in a thread."""
        with _reasons_kept():
            return await asyncio.to_thread(act)

    @asynccontextmanager
    async def uploading(self, tenant: str) -> AsyncIterator[Upload]:
        """A file to write to; without :meth:`keep` it leaves nothing. Raises RATE_LIMITED and QUOTA_EXHAUSTED."""
        if self._uploads[tenant] >= UPLOADS:
            raise PlugskyError(
                ErrorKind.RATE_LIMITED, f"This tenant is sending {UPLOADS} files at the moment", retry_after=5.0
            )
        self._uploads[tenant] += 1
        try:
            with _reasons_kept():
                self._audit.check()
            upload = await self.ask(lambda: self.files.begin(tenant))
            try:
                yield upload
            finally:
                await asyncio.shield(asyncio.to_thread(upload.close))
        finally:
            self._uploads[tenant] -= 1
            self._uploads += Counter()  # forget tenants that send none

    async def keep(
        self, upload: Upload, principal: Principal, name: str, purpose: str, lifetime_s: int | None
    ) -> FileRecord:
        """Make a file of what was written."""
        file = await self.ask(lambda: self.files.keep(upload, principal, name, purpose, lifetime_s))
        self.tell(FILE_CREATE, principal, file.id, {"purpose": file.purpose, "size": file.size})
        return file

    async def delete(self, principal: Principal, file_id: str) -> FileRecord:
        """Remove a file."""
        with _reasons_kept():
            self._audit.check()
        file = await self.ask(lambda: self.files.delete(principal.tenant, file_id))
        self.tell(FILE_DELETE, principal, file.id, {"purpose": file.purpose, "size": file.size})
        return file

    async def create(
        self, principal: Principal, input_id: str, endpoint: str, metadata: Mapping[str, str]
    ) -> BatchRecord:
        """A batch of the requests in a file."""
        with _reasons_kept():
            self._audit.check()
        batch = await self.ask(lambda: self.batches.create(principal, input_id, endpoint, metadata))
        self.tell(BATCH_CREATE, principal, batch.id, {"endpoint": endpoint, "input": input_id})
        self.news.set()
        return batch

    async def cancel(self, principal: Principal, batch_id: str) -> BatchRecord:
        """Ask a batch to end."""
        with _reasons_kept():
            self._audit.check()
        batch = await self.ask(lambda: self.batches.cancel(principal.tenant, batch_id))
        self.tell(BATCH_CANCEL, principal, batch.id, {"status": batch.status})
        self.news.set()
        return batch

    def ended(self, batch: BatchRecord) -> None:
        """Tell the trail how a batch ended."""
        facts: dict[str, Fact] = {"tenant": batch.tenant, "key_id": batch.key_id}
        facts |= {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
        with _reasons_kept():
            self._audit.append(BATCH_END, "site", batch.id, batch.status, facts)

    def tell(self, action: str, principal: Principal, subject: str, facts: dict[str, Fact]) -> None:
        """Tell the trail what a key changed."""
        told = {"tenant": principal.tenant, "key_id": principal.key_id, **facts}
        with _reasons_kept():
            self._audit.append(action, f"key:{principal.key_id}", subject, "ok", told)


@contextmanager
def _reasons_kept() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _log.error("files of tenants: %s", error)
        raise PlugskyError(
            ErrorKind.OVERLOADED, "The site cannot keep files at the moment", retry_after=30.0
        ) from error
    except PlugskyError as error:
        if error.kind in _FOR_CLIENTS:
            raise
        _log.error("%s: %s. Next: %s", error.what, error.why, error.next)
        raise PlugskyError(
            error.kind, "The site cannot keep files at the moment", retry_after=error.retry_after
        ) from error
