"""The verbs of logins: people begin and end sessions, and administrators say who may."""

import asyncio
from contextlib import nullcontext

from plugsky.access.logins import LoginRecord
from plugsky.admin import views
from plugsky.admin.acting import Acting
from plugsky.admin.api import LoginView, NewLogin, SessionView
from plugsky.admin.sessions import IDLE_S, Sessions
from plugsky.audit import events
from plugsky.audit.events import Event, Fact
from plugsky.core.errors import ErrorKind, PlugskyError

_STRANGER = "(not a login)"
"""What the trail has in place of a name that is none: somebody may have typed a password there."""


class LoginVerbs(Acting):
    """What people do with logins."""

    async def login_begin(self, name: str, password: str, code: str) -> SessionView:
        await self._allow("login_begin", self._known(name))
        sessions = self._sessions()
        try:
            async with sessions.checking:
                ended = sessions.ended(name)
                login = await asyncio.to_thread(self._site.logins.check, name, password, code)
            token = sessions.begin(self._operator.uid, login.name, ended)
        except PlugskyError as error:
            await self._record(events.LOGIN_BEGIN, self._known(name), error.kind.wire, {})
            raise
        operator = self._operator.logged_in(login.name, login.role)
        await self._record(events.LOGIN_BEGIN, login.name, "ok", {"role": operator.role.value})
        return SessionView(token, login.name, operator.role.value, IDLE_S)

    async def login_end(self, token: str) -> None:
        await self._allow("login_end")
        name = self._sessions().end(self._operator.uid, token)
        if name:
            await self._record(events.LOGIN_END, name, "ok", {})

    async def login_password(self, name: str, password: str, code: str, new: str) -> LoginView:
        await self._allow("login_password", self._known(name))
        checking = nullcontext() if self._site.sessions is None else self._site.sessions.checking
        try:
            async with checking:
                login = await self._witnessed(
                    lambda tell: self._site.logins.change_password(
                        name, password, code, new, lambda changed: tell(self._event(events.LOGIN_PASSWORD, changed))
                    )
                )
        except PlugskyError as error:
            if error.kind in (ErrorKind.UNAUTHENTICATED, ErrorKind.RATE_LIMITED):
                await self._record(events.LOGIN_PASSWORD, self._known(name), error.kind.wire, {})
            raise
        self._end_all(name)
        return views.login_view(login)

    async def login_list(self) -> tuple[LoginView, ...]:
        await self._allow("login_list")
        return tuple(map(views.login_view, await asyncio.to_thread(self._site.logins.list)))

    async def login_add(self, name: str, role: str, source: str = "local", subject: str = "") -> NewLogin:
        await self._allow("login_add", name)
        issued = await self._witnessed(
            lambda tell: self._site.logins.add(
                name, role, source, subject, lambda made: tell(self._event(events.LOGIN_ADD, made))
            )
        )
        return views.new_login(issued)

    async def login_role(self, name: str, role: str) -> LoginView:
        await self._allow("login_role", name)
        login = await self._witnessed(
            lambda tell: self._site.logins.set_role(
                name, role, lambda changed: tell(self._event(events.LOGIN_ROLE, changed))
            )
        )
        return views.login_view(login)

    async def login_reset(self, name: str) -> NewLogin:
        await self._allow("login_reset", name)
        issued = await self._witnessed(
            lambda tell: self._site.logins.reset(name, lambda made: tell(self._event(events.LOGIN_RESET, made)))
        )
        self._end_all(name)
        return views.new_login(issued)

    async def login_remove(self, name: str) -> LoginView:
        await self._allow("login_remove", name)
        login = await self._witnessed(
            lambda tell: self._site.logins.remove(name, lambda gone: tell(self._event(events.LOGIN_REMOVE, gone)))
        )
        self._end_all(name)
        return views.login_view(login)

    def _event(self, action: str, login: LoginRecord) -> Event:
        facts: dict[str, Fact] = {"role": login.role.value, "source": login.source.value}
        if login.subject:
            facts["subject"] = login.subject
        return Event(action, self._actor, login.name, "ok", facts)

    def _known(self, name: str) -> str:
        return name if self._site.logins.role_of(name) is not None else _STRANGER

    def _end_all(self, name: str) -> None:
        if self._site.sessions is not None:
            self._site.sessions.end_all(name)

    def _sessions(self) -> Sessions:
        if self._site.sessions is None:
            raise PlugskyError(
                ErrorKind.UNREACHABLE,
                "the site is not running",
                why="nobody logs in to files: without a site, the account alone counts",
                next="plugsky serve --root SITE",
            )
        return self._site.sessions
