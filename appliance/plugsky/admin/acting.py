"""One operator acting on one site: what it may, and the record that each write leaves first.

A verb runs only for a role that :data:`~plugsky.admin.api.VERBS` allows; a refused write is recorded too. A change of
the database has its record on disk inside the transaction: when the record cannot be written, the change does not
happen, and when the transaction fails behind its record, a second one with the outcome ``failed`` says so.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from plugsky.access.aliases import Aliases
from plugsky.access.keys import Keys
from plugsky.access.ledger import Ledger
from plugsky.access.logins import Logins
from plugsky.access.people import People
from plugsky.access.tenants import Tenants
from plugsky.admin.ports import EngineTable, GatewayControl, IsolationProbe, SiteFacts
from plugsky.admin.sessions import Sessions
from plugsky.admin.verb_table import VERBS
from plugsky.audit.events import Event, Fact
from plugsky.core.clock import Clock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.core.principal import Operator

ResultT = TypeVar("ResultT")
Told = Callable[[Event], None]
"""Puts an event on record, inside the transaction that makes it true."""


class Recorder(Protocol):
    """Writes one audit record and returns when it is on disk; raises PlugskyError when it cannot."""

    def record(self, action: str, actor: str, subject: str, outcome: str, fields: Mapping[str, Fact]) -> object: ...


@dataclass(frozen=True)
class SiteParts:
    """What the verbs work on. ``engines``, ``gateway`` and ``sessions`` are None where no site runs in this process."""

    paths: SitePaths
    keys: Keys
    tenants: Tenants
    aliases: Aliases
    people: People
    logins: Logins
    ledger: Ledger
    audit: Recorder
    facts: SiteFacts
    probe: IsolationProbe
    clock: Clock
    engines: EngineTable | None = None
    gateway: GatewayControl | None = None
    sessions: Sessions | None = None
    started_us: int = 0
    """When the site started, on the monotonic clock; Home counts its uptime from there."""


class Acting:
    """Acts for one operator."""

    def __init__(self, site: SiteParts, operator: Operator) -> None:
        self._site = site
        self._operator = operator
        self._actor = str(operator)

    async def _allow(self, name: str, subject: str = "") -> None:
        verb = VERBS[name]
        if self._operator.role.covers(verb.role):
            return
        if verb.writes:
            await self._record(name.replace("_", ".", 1), subject, ErrorKind.FORBIDDEN.wire, {})
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"{self._operator.person or self._operator.name} may not do that",
            why=f"{name} needs the role {verb.role.value}; yours is {self._operator.role.value}",
            next="run it as the owner of the site",
        )

    async def _witnessed(self, change: Callable[[Told], ResultT]) -> ResultT:
        """Make a change of the database, in a thread, with its records inside the transaction."""

        def act() -> ResultT:
            told: list[Event] = []

            def tell(event: Event) -> None:
                self._site.audit.record(*event)
                told.append(event)

            try:
                return change(tell)
            except BaseException:
                for event in told:  # the transaction failed: contradict what was told of it
                    self._site.audit.record(event.action, event.actor, event.subject, "failed", {})
                raise

        return await asyncio.to_thread(act)

    async def _record(self, action: str, subject: str, outcome: str, fields: Mapping[str, Fact]) -> None:
        await asyncio.to_thread(self._site.audit.record, *Event(action, self._actor, subject, outcome, fields))
