"""Closing the gap that a killed gateway left, when the next one starts.

Reservations it left open are closed as ``recovered``; ledger entries it closed without getting their audit record to
disk get it now. Call it before the first request, with the audit chain (and so its lock) in hand. A chain of the same
kind that nobody writes any more, as after a change of the host's name, is taken care of as well.

Clocks may step back, so no time decides whether an entry has its record: the whole trail does. Time only chooses which
entries are asked about, and generously.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from plugsky.access.ledger import Ledger
from plugsky.access.ledger_turn import LedgerRow
from plugsky.admin.views import moment
from plugsky.audit import events, trail
from plugsky.audit.log import AuditLog
from plugsky.audit.site_key import known_site_keyid
from plugsky.audit.verify import verify_continued
from plugsky.core.paths import SitePaths
from plugsky_bundles.chain import being_written
from plugsky_bundles.sizes import size

MAX_CHAIN: Final = 64 << 20
"""Bytes of a chain that are verified before the first request; a longer one would hold up the start."""
_log: Final = logging.getLogger(__name__)
MARGIN_US: Final = 600_000_000
"""How much older than its chain's newest request an entry without a record may be; far above what the queue allows."""


@dataclass(frozen=True)
class Recovered:
    """What was closed: reservations without usage, and entries that lacked their record."""

    reservations: int
    records: int


def recover(paths: SitePaths, ledger: Ledger, audit: AuditLog) -> Recovered:
    """Brings ledger and trail of this writer together. Returns when everything is on disk."""
    writers = [audit.name, *_orphans(paths, audit.name)]
    reservations = ledger.recover(writers)
    late = _without_record(paths, writers, (row for writer in writers for row in _recent(paths, ledger, writer)))
    for future in [audit.append(*events.request_done(row)) for row in late]:
        future.result()
    return Recovered(len(reservations), len(late))


def say_damage(paths: SitePaths, name: str) -> None:
    """Logs what speaks against the chain that this process continues. It serves all the same: a damaged chain stays
    damaged, and whoever damages one must not decide whether the site works.
    """
    if (paths.audit / name / trail.CHAIN_FILE).stat().st_size > MAX_CHAIN:
        _log.warning("the audit chain %s is longer than %s, not verified at start", name, size(MAX_CHAIN))
        return
    for problem in verify_continued(paths.audit, name, known_site_keyid(paths)):
        _log.error("the audit chain %s is damaged: %s. Next: plugsky audit verify", name, problem)


def _orphans(paths: SitePaths, own: str) -> list[str]:
    """The chains of gateways of this site, under whatever name of the host, that no process writes."""
    kind = own.partition(".")[2]
    return [
        name
        for name in trail.chain_names(paths.audit)
        if name != own and name.partition(".")[2] == kind and not being_written(paths.audit / name / trail.CHAIN_FILE)
    ]


def _recent(paths: SitePaths, ledger: Ledger, writer: str) -> Iterable[LedgerRow]:
    """The entries that ``writer`` closed since about its chain's newest request; all of them where it has none."""
    oldest: int | None = None
    for record in trail.records(paths.audit, writer):
        at = moment(record.time or None, "time")
        if at is not None:
            oldest = at if oldest is None else min(oldest, at)
        if record.action == events.REQUEST and oldest is not None:
            return ledger.closed(oldest - MARGIN_US, writer)
    return ledger.closed(0, writer)


def _without_record(paths: SitePaths, writers: Iterable[str], rows: Iterable[LedgerRow]) -> list[LedgerRow]:
    """Those of ``rows`` that no chain of these writers has a record of. Reads no further back than it must."""
    missing = {row.job: row for row in rows}
    for writer in writers:
        for record in trail.records(paths.audit, writer):
            if not missing:
                return []
            if record.action == events.REQUEST:
                missing.pop(record.subject, None)
    return list(missing.values())
