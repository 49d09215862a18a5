"""Keys, ledger and audit trail as the gateway uses them: never on the event loop.

Writes go through one thread, so that the requests of this process queue for SQLite's one writer in order instead of
competing for it; keys are read in another. Settling closes the ledger entry first and then hands the record with the
same counts to the audit trail, which gives it to the kernel at once and signs it within its group commit. A settlement
that fails may be tried again: what it did already is not done twice. A trail that cannot be written stops the next
requests (:meth:`Books.check`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from plugsky.access.keys import Keys
from plugsky.access.ledger import Ledger
from plugsky.audit import AuditLog, events
from plugsky.core.principal import Principal
from plugsky.server.deps import Entry, Outcome, RawHeaders

ResultT = TypeVar("ResultT")


class Books:
    """The gateway's :class:`~plugsky.server.deps.Accounts`, over the site's own."""

    def __init__(self, keys: Keys, ledger: Ledger, audit: AuditLog) -> None:
        self._keys = keys
        self._ledger = ledger
        self._audit = audit
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="keys")

    async def authenticate(self, headers: RawHeaders) -> Principal:
        """Whose key the headers carry."""
        return await _in(self._reader, lambda: self._keys.authenticate(headers))

    def check(self) -> None:
        """Raise ``overloaded`` while the audit trail cannot be written and policy forbids serving without it."""
        self._audit.check()

    async def reserve(self, entry: Entry) -> None:
        """Set tokens aside for a job."""
        await _in(
            self._writer,
            lambda: self._ledger.reserve(
                job=entry.job,
                principal=entry.principal,
                requested_model=entry.requested_model,
                model=entry.model.id,
                digest=entry.model.digest,
                tokens=entry.tokens,
                end_user=entry.end_user,
            ),
        )

    async def top_up(self, job: str, tokens: int) -> None:
        """Set further tokens aside."""
        await _in(self._writer, lambda: self._ledger.top_up(job, tokens))

    async def settle(self, entry: Entry, outcome: Outcome) -> None:
        """Close the entry and hand its record to the audit trail."""

        def write() -> None:
            row = self._ledger.settle(entry.job, outcome.usage, outcome.name)
            self._audit.append(*events.request_done(row, outcome.fields))

        await _in(self._writer, write)

    async def refused(self, job: str, principal: Principal, requested_model: str, outcome: Outcome) -> None:
        """Record a request that was turned away before anything was set aside for it."""
        event = events.request_refused(
            job,
            tenant=principal.tenant,
            key_id=principal.key_id,
            requested_model=requested_model,
            outcome=outcome.name,
            extra=outcome.fields,
        )
        await _in(self._writer, lambda: self._audit.append(*event))

    def close(self) -> None:
        """Finish what the threads have begun."""
        self._writer.shutdown()
        self._reader.shutdown()


async def _in(executor: ThreadPoolExecutor, act: Callable[[], ResultT]) -> ResultT:
    return await asyncio.get_running_loop().run_in_executor(executor, act)
