"""The Admin service on its socket, ``admin.sock``.

The peer's uid, told by the kernel, decides who calls: root and the owner of the site are administrators; an account
that was given a role has that; anyone else whom the socket's file mode lets in may look and not change.
"""

import pwd
from collections.abc import Mapping
from typing import Any

from plugsky.access.people import People
from plugsky.admin.call_server import Answer, CallServer
from plugsky.admin.service import AdminService
from plugsky.admin.verbs import signature
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

    def __init__(self, service: AdminService) -> None:
        self._service = service
        self._owner = service.paths.root.stat().st_uid
        self._calls = CallServer(self._answer)

    async def start(self) -> None:
        """Listens on the site's Admin socket. Raises CONFLICT when another process does."""
        await self._calls.start(self._service.paths.admin_socket)

    async def close(self) -> None:
        """Ends every call and connection, and removes the socket."""
        await self._calls.close()

    def _answer(self, uid: int, verb: str, arguments: Mapping[str, Any]) -> Answer:
        given = signature(verb).read(arguments)
        operator = operator_of(uid, self._owner, self._service.people)
        answer: Answer = getattr(self._service.for_operator(operator), verb)(**given)
        return answer
