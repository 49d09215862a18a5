"""The Admin service on its socket, ``admin.sock``.

The peer's uid, told by the kernel, decides the most a caller may do: root and the owner of the site are
administrators; an account that was given a role has that; anyone else whom the socket's file mode lets in may look and
not change. A call within a session is that person's, with what account and login both may. Where people must log in, no
other call is answered; a stream ends with its session.
"""

import pwd
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from plugsky.access.people import People
from plugsky.admin.call_server import Answer, CallServer
from plugsky.admin.service import AdminService
from plugsky.admin.sessions import over
from plugsky.admin.verb_table import SESSION, Verb
from plugsky.admin.verbs import signature
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Operator, Role


def operator_of(uid: int, owner: int, people: People) -> Operator:
    """The operator that a uid stands for on a site that ``owner`` owns."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "unknown"
    return Operator(uid, name, Role.ADMIN if uid in (0, owner) else people.role_of(uid, name) or Role.VIEWER)


class AdminServer:
    """Serves one site's Admin verbs until closed."""

    def __init__(self, service: AdminService, *, login_required: bool = False) -> None:
        self._service = service
        self._login_required = login_required
        self._owner = service.paths.root.stat().st_uid
        self._calls = CallServer(self._answer)

    async def start(self, listener: socket.socket | None = None) -> None:
        """Serves ``listener``, or binds the site's Admin socket. Raises CONFLICT when another process listens there."""
        await self._calls.start(self._service.paths.admin_socket, listener)

    async def close(self) -> None:
        """Ends every call and connection, and removes the socket."""
        await self._calls.close()

    def _answer(self, uid: int, verb: str, arguments: Mapping[str, Any]) -> Answer:
        plain = dict(arguments)
        session = plain.pop(SESSION, None)
        called = signature(verb)
        given = called.read(plain)
        operator = self._operator(uid, session, called.verb)
        answer: Answer = getattr(self._service.for_operator(operator), verb)(**given)
        if isinstance(answer, AsyncGenerator) and isinstance(session, str):
            return self._while_logged_in(uid, session, answer)
        return answer

    def _operator(self, uid: int, session: object, verb: Verb) -> Operator:
        operator, sessions = operator_of(uid, self._owner, self._service.people), self._service.sessions
        if session is not None:
            if not isinstance(session, str) or sessions is None:
                raise over()
            name = sessions.name_of(uid, session)
            role = self._service.logins.role_of(name)
            if role is None:
                raise over()
            return operator.logged_in(name, role)
        if self._login_required and not verb.before_login:
            raise PlugskyError(
                ErrorKind.UNAUTHENTICATED,
                "this site wants to know who you are",
                why='it was started with logins = "required"',
                next="plugsky login begin NAME",
            )
        return operator

    async def _while_logged_in(self, uid: int, session: str, items: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        """The items of a stream for as long as the session lasts, which watching does not prolong."""
        async with aclosing(items):
            async for item in items:
                if self._service.sessions is not None:
                    self._service.sessions.name_of(uid, session, using=False)
                yield item


def check_somebody_can_log_in(service: AdminService) -> None:
    """Raises CONFLICT for a site that lets nobody administer it: logins are required, and no administrator has one."""
    if not any(login.role is Role.ADMIN for login in service.logins.list()):
        raise PlugskyError(
            ErrorKind.CONFLICT,
            "Nobody could administer this site.",
            why='logins = "required", and no login has the role admin',
            next="plugsky login add NAME admin",
        )
