"""Puts an Admin service together over a site's files: for the supervisor of a running site, and for a single command.

The audit chain is opened by the first write, so that commands that only look leave no record and need no lock.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from plugsky.access.aliases import Aliases
from plugsky.access.directory import directory_of
from plugsky.access.ledger import Ledger
from plugsky.access.logins import PURPOSE, Logins, Source, Voucher
from plugsky.access.people import People
from plugsky.access.provider import provider_of
from plugsky.access.tenants import Tenants
from plugsky.admin.first_use import opened_state
from plugsky.admin.ports import EngineTable, GatewayControl, IsolationProbe, SiteFacts
from plugsky.admin.service import AdminService
from plugsky.admin.sessions import Sessions
from plugsky.audit.events import Fact
from plugsky.audit.log import AuditLog
from plugsky.core.clock import Clock
from plugsky.core.paths import SitePaths
from plugsky.core.settings import Settings


class OnDemandLog:
    """The audit chain of this process, opened when the first record comes."""

    def __init__(self, paths: SitePaths, process: str, clock: Clock) -> None:
        self._paths, self._process, self._clock = paths, process, clock
        self._log: AuditLog | None = None
        self._lock = threading.Lock()

    def record(self, action: str, actor: str, subject: str, outcome: str, fields: Mapping[str, Fact]) -> object:
        """As :meth:`AuditLog.record`."""
        with self._lock:
            if self._log is None:
                self._log = AuditLog.open(self._paths, self._process, self._clock, spare=True)
            log = self._log
        return log.record(action, actor, subject, outcome, fields)

    def close(self) -> None:
        """As :meth:`AuditLog.close`, where it was opened."""
        if self._log is not None:
            self._log.close()


def vouchers(settings: Settings, clock: Clock) -> Mapping[Source, Voucher]:
    """Who vouches for people beside the site itself. Raises BAD_REQUEST for settings that name half of somebody."""
    named = {Source.LDAP: directory_of(settings), Source.OIDC: provider_of(settings, clock)}
    return {source: voucher for source, voucher in named.items() if voucher is not None}


@contextmanager
def admin_service(
    paths: SitePaths,
    process: str,
    clock: Clock,
    facts: SiteFacts,
    probe: IsolationProbe,
    settings: Settings,
    *,
    engines: EngineTable | None = None,
    gateway: GatewayControl | None = None,
) -> Iterator[AdminService]:
    """The Admin service of a site, with its database open; ``process`` names its audit chain (``admin``, ``cli``)."""
    with (
        opened_state(paths, clock) as (database, keys),
        closing(OnDemandLog(paths, process, clock)) as log,
    ):
        yield AdminService(
            paths=paths,
            keys=keys,
            tenants=Tenants(database, clock),
            aliases=Aliases(database, clock),
            people=People(database, clock),
            logins=Logins(database, clock, keys.derived(PURPOSE), vouchers(settings, clock)),
            ledger=Ledger(database, clock, writer=process),
            audit=log,
            facts=facts,
            probe=probe,
            clock=clock,
            engines=engines,
            gateway=gateway,
            sessions=Sessions(clock) if engines is not None else None,
            started_us=clock.monotonic_us() if engines is not None else 0,
        )
