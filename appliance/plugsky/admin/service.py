"""The Admin service: answers every verb, for one operator at a time.

Who may, and the record of each write, are :mod:`plugsky.admin.acting`'s; the verbs of accounts are next door. Whatever
touches the disk runs in a thread.

A part of the site that does not answer costs its own fields on the Home screen and nothing else.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from plugsky.admin import unknown, views
from plugsky.admin.account_verbs import AccountVerbs
from plugsky.admin.acting import SiteParts
from plugsky.admin.api import (
    AuditRecord,
    AuditVerdict,
    Duty,
    Home,
    Isolation,
    ModelView,
    RequestView,
    Traffic,
    UsageReport,
)
from plugsky.admin.login_verbs import LoginVerbs
from plugsky.admin.provenance import verify_trail
from plugsky.audit import events
from plugsky.audit.index import find
from plugsky.audit.query import Query
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Operator
from plugsky_bundles.errors import BundleError

GATEWAY_PATIENCE_S: Final = 2.0
MIN_INTERVAL_S: Final = 0.2
MAX_INTERVAL_S: Final = 60.0
MAX_FOUND: Final = 1000
ResultT = TypeVar("ResultT")
UnknownT = TypeVar("UnknownT")


class AdminService(SiteParts):
    """A site's parts, and the Admin of each operator on them."""

    def for_operator(self, operator: Operator) -> "OperatorAdmin":
        """The Admin of one operator."""
        return OperatorAdmin(self, operator)


class OperatorAdmin(AccountVerbs, LoginVerbs):
    """An :class:`~plugsky.admin.api.Admin` that acts for one operator and lets it do what its role may."""

    async def home(self) -> Home:
        await self._allow("home")
        return await self._home()

    async def watch_home(self, interval_s: float) -> AsyncGenerator[Home]:
        await self._allow("watch_home")
        if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
            raise _bad("interval_s", f"it is {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g} seconds")
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            yield await self._home()
            due = max(due + interval_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def model_list(self) -> tuple[ModelView, ...]:
        await self._allow("model_list")
        return await self._models()

    async def request_list(self) -> tuple[RequestView, ...]:
        await self._allow("request_list")
        return (await self._live())[0]

    async def request_cancel(self, job: str) -> None:
        await self._allow("request_cancel", job)
        if self._site.gateway is None:
            raise _not_running()
        await self._record(events.CANCEL, job, "asked", {})
        await self._site.gateway.cancel(job)

    async def usage_report(
        self, since: str | None = None, until: str | None = None, tenant: str | None = None
    ) -> UsageReport:
        await self._allow("usage_report")
        since_us, until_us = views.moment(since, "since"), views.moment(until, "until")
        total = await asyncio.to_thread(self._site.ledger.report, since_us, until_us, tenant)
        return views.usage_report(total, since_us, until_us)

    async def audit_search(
        self,
        text: str = "",
        action: str = "",
        since: str | None = None,
        until: str | None = None,
        *,
        limit: int = 100,
        oldest_first: bool = False,
        skip: int = 0,
    ) -> tuple[AuditRecord, ...]:
        await self._allow("audit_search")
        if not 1 <= limit <= MAX_FOUND:
            raise _bad("limit", f"it is 1 to {MAX_FOUND}")
        if skip < 0:
            raise _bad("skip", "it is 0 or more")
        after, before = (views.stamp(views.moment(at, name)) for at, name in ((since, "since"), (until, "until")))
        query = Query.parse(text, action, after, before)

        def found() -> tuple[AuditRecord, ...]:
            records = find(self._site.paths.audit, query, oldest_first=oldest_first)
            return tuple(map(views.audit_record, islice(records, skip, skip + limit)))

        return await asyncio.to_thread(found)

    async def audit_verify(self) -> AuditVerdict:
        await self._allow("audit_verify")
        site = self._site
        try:
            verdict = await asyncio.to_thread(verify_trail, site.paths, site.ledger, site.keys, site.clock)
        except BundleError as error:
            raise PlugskyError(ErrorKind.TAMPERED, error.what, why=error.why, next=error.next) from error
        return views.audit_verdict(verdict)

    async def isolation(self) -> Isolation:
        await self._allow("isolation")
        return await self._isolation()

    async def _home(self) -> Home:
        site, broken = self._site, list[Duty]()
        identity, duties, host, models, (requests, traffic), isolation = await asyncio.gather(
            _part(
                "identity",
                partial(asyncio.to_thread, site.facts.identity),
                unknown.identity(site.paths, site.clock),
                broken,
            ),
            _part("duties", partial(asyncio.to_thread, site.facts.duties), (), broken),
            _part("host", partial(asyncio.to_thread, site.facts.host), unknown.HOST, broken),
            _part("models", self._models, (), broken),
            _part("gateway", self._live, ((), None), broken),
            _part("isolation", self._isolation, unknown.ISOLATION, broken),
        )
        return Home(
            identity=identity,
            operator=self._operator.person or self._operator.name,
            role=self._operator.role.value,
            uptime_s=(site.clock.monotonic_us() - site.started_us) / 1e6 if site.started_us else 0.0,
            models=models,
            requests=requests,
            traffic=traffic,
            isolation=isolation,
            duties=(*sorted(broken, key=lambda duty: duty.id), *duties),
            host=host,
        )

    async def _isolation(self) -> Isolation:
        return views.isolation(await self._site.probe())

    async def _models(self) -> tuple[ModelView, ...]:
        models = await asyncio.to_thread(self._site.facts.models)
        table = await self._site.engines.engines() if self._site.engines is not None else {}
        return tuple(views.model_view(model, table.get(model.id, views.ABSENT)) for model in models)

    async def _live(self) -> tuple[tuple[RequestView, ...], Traffic | None]:
        """What the gateway says; nothing where it does not answer."""
        gateway = self._site.gateway
        if gateway is None:
            return (), None
        try:
            async with asyncio.timeout(GATEWAY_PATIENCE_S):
                return await gateway.requests(), await gateway.traffic()
        except TimeoutError:
            return (), None
        except PlugskyError as error:
            if error.kind is not ErrorKind.UNREACHABLE:
                raise
            return (), None


async def _part(
    name: str, read: Callable[[], Awaitable[ResultT]], otherwise: UnknownT, broken: list[Duty]
) -> ResultT | UnknownT:
    """A part of the Home screen; one that cannot be read is unknown, and a duty says why."""
    try:
        return await read()
    except (PlugskyError, BundleError, OSError) as error:
        broken.append(unknown.duty(name, error))
        return otherwise


def _bad(param: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, f"`{param}` is out of range", why=why, next="plugsky help", param=param)


def _not_running() -> PlugskyError:
    return PlugskyError(
        ErrorKind.UNREACHABLE, "the site is not running", why="no gateway answers", next="plugsky serve --root SITE"
    )
