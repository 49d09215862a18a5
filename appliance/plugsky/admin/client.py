"""The Admin protocol over the site's socket. Imports ``core`` and the protocol only: what the console holds.

Values come back as the types of :mod:`plugsky.admin.api`; failures as the :class:`PlugskyError` that the service
raised. When nobody listens, UNREACHABLE says which command starts the site; the next call tries again by itself.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from plugsky.admin.api import (
    AliasView,
    AuditRecord,
    AuditVerdict,
    Home,
    Isolation,
    KeyView,
    LoginView,
    ModelView,
    NewKey,
    NewLogin,
    PersonView,
    RequestView,
    SessionView,
    TenantView,
    UsageReport,
)
from plugsky.admin.call_client import CallClient
from plugsky.admin.verb_table import SESSION
from plugsky.core import host_users
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths

ValueT = TypeVar("ValueT")


class AdminClient:
    """An :class:`~plugsky.admin.api.Admin` for the user who runs this process, within ``session`` where one is given.

    Each call says which session it belongs to.
    """

    def __init__(self, socket: Path, root: Path, session: str | None = None) -> None:
        def unreachable(why: str) -> PlugskyError:
            return PlugskyError(
                ErrorKind.UNREACHABLE,
                f"the site at {root} is not running",
                why=f"{socket}: {why}",
                next=command_line("serve", "--root", root),
            )

        served_by = host_users.uids(host_users.ADMIN)
        with suppress(OSError):
            served_by |= {root.stat().st_uid}
        self._calls = CallClient(socket, unreachable, served_by)
        self._session = {} if session is None else {SESSION: session}

    @classmethod
    def of(cls, paths: SitePaths, session: str | None = None) -> Self:
        """The client of the site with these paths."""
        return cls(paths.admin_socket, paths.root, session)

    async def home(self) -> Home:
        return await self._call("home", Home)

    async def watch_home(self, interval_s: float) -> AsyncGenerator[Home]:
        async with aclosing(self._calls.stream("watch_home", {"interval_s": interval_s, **self._session})) as items:
            async for item in items:
                yield _value(item, Home)

    async def model_list(self) -> tuple[ModelView, ...]:
        return await self._call("model_list", tuple[ModelView, ...])

    async def request_list(self) -> tuple[RequestView, ...]:
        return await self._call("request_list", tuple[RequestView, ...])

    async def request_cancel(self, job: str) -> None:
        await self._calls.call("request_cancel", {"job": job, **self._session})

    async def key_create(
        self,
        tenant: str,
        name: str = "",
        models: tuple[str, ...] | None = None,
        days: int | None = None,
        endpoints: tuple[str, ...] | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrency: int | None = None,
    ) -> NewKey:
        return await self._call(
            "key_create",
            NewKey,
            tenant=tenant,
            name=name,
            models=models,
            days=days,
            endpoints=endpoints,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrency=concurrency,
        )

    async def key_rotate(self, key_id: str, overlap_hours: int = 24) -> NewKey:
        return await self._call("key_rotate", NewKey, key_id=key_id, overlap_hours=overlap_hours)

    async def key_list(self, tenant: str | None = None) -> tuple[KeyView, ...]:
        return await self._call("key_list", tuple[KeyView, ...], tenant=tenant)

    async def key_revoke(self, key_id: str) -> KeyView:
        return await self._call("key_revoke", KeyView, key_id=key_id)

    async def tenant_list(self) -> tuple[TenantView, ...]:
        return await self._call("tenant_list", tuple[TenantView, ...])

    async def tenant_set(self, tenant: str, terms: dict[str, int | None]) -> TenantView:
        return await self._call("tenant_set", TenantView, tenant=tenant, terms=terms)

    async def alias_list(self) -> tuple[AliasView, ...]:
        return await self._call("alias_list", tuple[AliasView, ...])

    async def alias_set(
        self, name: str, model: str, tenant: str = "", defaults: dict[str, float] | None = None
    ) -> AliasView:
        return await self._call("alias_set", AliasView, name=name, model=model, tenant=tenant, defaults=defaults)

    async def alias_remove(self, name: str, tenant: str = "") -> AliasView:
        return await self._call("alias_remove", AliasView, name=name, tenant=tenant)

    async def person_list(self) -> tuple[PersonView, ...]:
        return await self._call("person_list", tuple[PersonView, ...])

    async def person_set(self, account: str, role: str) -> PersonView:
        return await self._call("person_set", PersonView, account=account, role=role)

    async def person_remove(self, account: str) -> PersonView:
        return await self._call("person_remove", PersonView, account=account)

    async def login_begin(self, name: str, password: str, code: str) -> SessionView:
        return await self._call("login_begin", SessionView, name=name, password=password, code=code)

    async def login_end(self, token: str) -> None:
        await self._calls.call("login_end", {"token": token})

    async def login_password(self, name: str, password: str, code: str, new: str) -> LoginView:
        return await self._call("login_password", LoginView, name=name, password=password, code=code, new=new)

    async def login_list(self) -> tuple[LoginView, ...]:
        return await self._call("login_list", tuple[LoginView, ...])

    async def login_add(self, name: str, role: str, source: str = "local", subject: str = "") -> NewLogin:
        return await self._call("login_add", NewLogin, name=name, role=role, source=source, subject=subject)

    async def login_role(self, name: str, role: str) -> LoginView:
        return await self._call("login_role", LoginView, name=name, role=role)

    async def login_reset(self, name: str) -> NewLogin:
        return await self._call("login_reset", NewLogin, name=name)

    async def login_remove(self, name: str) -> LoginView:
        return await self._call("login_remove", LoginView, name=name)

    async def usage_report(
        self, since: str | None = None, until: str | None = None, tenant: str | None = None
    ) -> UsageReport:
        return await self._call("usage_report", UsageReport, since=since, until=until, tenant=tenant)

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
        return await self._call(
            "audit_search",
            tuple[AuditRecord, ...],
            text=text,
            action=action,
            since=since,
            until=until,
            limit=limit,
            oldest_first=oldest_first,
            skip=skip,
        )

    async def audit_verify(self) -> AuditVerdict:
        return await self._call("audit_verify", AuditVerdict)

    async def isolation(self) -> Isolation:
        return await self._call("isolation", Isolation)

    async def close(self) -> None:
        """Ends the connection."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, verb: str, kind: type[ValueT], **arguments: Any) -> ValueT:
        return _value(await self._calls.call(verb, {**arguments, **self._session}), kind)


def _value(plain: Any, kind: type[ValueT]) -> ValueT:
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise PlugskyError(
            ErrorKind.INTERNAL,
            "the site answered in another form than expected",
            why=str(error),
            next="use the plugsky of the site's current generation",
        ) from error
