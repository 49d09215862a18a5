"""Closing the gap that a killed gateway left, when the next one starts under the same name.

Reservations it left open are closed as ``recovered``; ledger entries it closed without getting their audit record to
disk get it now. Call it before the first request, with the audit chain (and so its lock) in hand.
"""

from dataclasses import dataclass
from typing import Final

from plugsky.access.ledger import Ledger
from plugsky.admin.views import moment
from plugsky.audit import events, trail
from plugsky.audit.log import AuditLog
from plugsky.core.paths import SitePaths

MARGIN_US: Final = 600_000_000
"""How much older than its chain's newest request an entry without a record may be; far above what the queue allows."""


@dataclass(frozen=True)
class Recovered:
    """What was closed: reservations without usage, and entries that lacked their record."""

    reservations: int
    records: int


def recover(paths: SitePaths, ledger: Ledger, audit: AuditLog) -> Recovered:
    """Brings ledger and trail of this writer together. Returns when everything is on disk."""
    reservations = ledger.recover()
    recorded: set[str] = set()
    since = 0
    for record in trail.records(paths.audit, audit.name):
        at = moment(record.time or None, "time")
        if record.action == events.REQUEST and at is not None:
            since = since or at - MARGIN_US
            recorded.add(record.subject)
        if since and at is not None and at < since:
            break
    late = [row for row in ledger.closed(since) if row.writer == audit.name and row.job not in recorded]
    for future in [audit.append(*events.request_done(row)) for row in late]:
        future.result()
    return Recovered(len(reservations), len(late))
