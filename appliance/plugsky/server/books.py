"""Keys, ledger and audit trail as the gateway uses them: never on the event loop.

Writes go through one thread, where those that wait share a transaction (:mod:`plugsky.server.ledger_thread`); keys are
read in another. Settling closes the ledger entry first and then hands the record with the
same counts to the audit trail, which gives it to the kernel at once and signs it within its group commit. A settlement
that fails may be tried again: what it did already is not done twice. A trail that cannot be written stops the next
requests (:meth:`Books.check`).

Failures of the books leave here without their reasons, which name paths and commands of the host: the log has them,
the clients do not. Digests of content enter the trail as HMAC-SHA-256 under the site's pepper, so that nobody can try
out short prompts and answers against it, and the site still can prove one that it is shown.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from plugsky.access.aliases import Aliases, AliasRecord
from plugsky.access.keys import FRESH_US, Keys
from plugsky.access.ledger import Ledger
from plugsky.access.ledger_turn import LedgerRow
from plugsky.audit import AuditLog, events
from plugsky.core.clock import Clock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.server.deps import Entry, Outcome, RawHeaders
from plugsky.server.ledger_thread import LedgerThread

ResultT = TypeVar("ResultT")
FOR_CLIENTS: Final = frozenset({ErrorKind.UNAUTHENTICATED, ErrorKind.QUOTA_EXHAUSTED})
"""Kinds that the books say to a client in their own words."""
_log: Final = logging.getLogger(__name__)


class Books:
    """The gateway's :class:`~plugsky.server.deps.Accounts`, over the site's own."""

    def __init__(self, keys: Keys, aliases: Aliases, ledger: Ledger, audit: AuditLog, clock: Clock) -> None:
        self._keys = keys
        self._named = aliases
        self._clock = clock
        self._aliases: dict[str, dict[str, AliasRecord]] | None = None
        self._aliases_us = 0
        self._ledger = ledger
        self._audit = audit
        self._writer = LedgerThread(ledger)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="keys")

    async def authenticate(self, headers: RawHeaders) -> Principal:
        """Whose key the headers carry."""
        known = self._keys.at_hand(headers)
        return known if known is not None else await _in(self._reader, lambda: self._keys.authenticate(headers))

    async def vouch(self, key_id: str) -> Principal:
        """Whose key that is."""
        return await _in(self._reader, lambda: self._keys.vouch(key_id))

    async def aliases(self, tenant: str) -> Mapping[str, AliasRecord]:
        """The other names that models have for a tenant: its own before those of the site."""
        if self._aliases is None or self._clock.monotonic_us() - self._aliases_us >= FRESH_US:
            found: dict[str, dict[str, AliasRecord]] = {}
            asked_us = self._clock.monotonic_us()
            for alias in await _in(self._reader, self._named.list):
                found.setdefault(alias.tenant, {})[alias.name] = alias
            self._aliases, self._aliases_us = found, asked_us
        return {**self._aliases.get("", {}), **self._aliases.get(tenant, {})}

    def check(self) -> None:
        """Raise ``overloaded`` while the audit trail cannot be written and policy forbids serving without it."""
        with _reasons_kept():
            self._audit.check()

    async def month(self, tenant: str) -> tuple[int, int | None]:
        """What a tenant has used this month, and its budget."""
        return await _in(self._reader, lambda: self._ledger.month(tenant))

    async def reserve(self, entry: Entry) -> None:
        """Set tokens aside for a job."""
        with _reasons_kept():
            await self._writer.do(
                lambda turn: turn.reserve(
                    job=entry.job,
                    principal=entry.principal,
                    requested_model=entry.requested_model,
                    model=entry.model.id,
                    digest=entry.model.digest,
                    tokens=entry.tokens,
                    end_user=entry.end_user,
                    service_class=entry.service_class,
                )
            )

    async def top_up(self, job: str, tokens: int) -> None:
        """Set further tokens aside."""
        with _reasons_kept():
            await self._writer.do(lambda turn: turn.top_up(job, tokens))

    async def settle(self, entry: Entry, outcome: Outcome) -> None:
        """Close the entry and hand its record to the audit trail."""

        def record(row: LedgerRow) -> None:
            keyed = {f"{name}_hmac": self._keys.keyed(digest) for name, digest in outcome.content.items()}
            self._audit.append(*events.request_done(row, {**outcome.fields, **keyed}))

        with _reasons_kept():
            await self._writer.do(lambda turn: turn.settle(entry.job, outcome.usage, outcome.name), record)

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
        await _in(self._reader, lambda: self._audit.append(*event))

    def close(self) -> None:
        """Finish what the threads have begun."""
        self._writer.close()
        self._reader.shutdown()


async def _in(executor: ThreadPoolExecutor, act: Callable[[], ResultT]) -> ResultT:
    with _reasons_kept():
        return await asyncio.get_running_loop().run_in_executor(executor, act)


@contextmanager
def _reasons_kept() -> Iterator[None]:
    try:
        yield
    except PlugskyError as error:
        if error.kind in FOR_CLIENTS:
            raise
        _log.error("%s: %s. Next: %s", error.what, error.why, error.next)
        raise PlugskyError(
            error.kind, "The site cannot keep its books at the moment", retry_after=error.retry_after
        ) from error
