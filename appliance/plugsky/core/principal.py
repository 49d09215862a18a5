"""Who asks: the result of authentication, and the roles it can carry."""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Role(Enum):
    """Roles of people on the Admin socket. The auditor reads the trail, which neither viewer nor operator may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"

    def covers(self, other: "Role") -> bool:
        """Whether who has this role may do what needs the other."""
        return other in _COVERED[self]

    def within(self, other: "Role") -> "Role":
        """The most that both roles may: what one of them covers, or only to look."""
        return self if other.covers(self) else other if self.covers(other) else Role.VIEWER


_COVERED: Final = {
    Role.VIEWER: {Role.VIEWER},
    Role.OPERATOR: {Role.VIEWER, Role.OPERATOR},
    Role.AUDITOR: {Role.VIEWER, Role.AUDITOR},
    Role.ADMIN: set(Role),
}


@dataclass(frozen=True)
class Rate:
    """How much a key, or all keys of a tenant together, may ask for. None: no such limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    """Requests in flight at a time."""


UNLIMITED: Final = Rate()


@dataclass(frozen=True)
class Principal:
    """The owner of an API key: a tenant's program. Made by ``access`` only, after the key's digest matched."""

    tenant: str
    key_id: str
    models: frozenset[str] | None = None
    """Model ids this key may use; None means every model of the site."""
    weight: int = 1
    endpoints: frozenset[str] | None = None
    """Endpoints this key may call, by name or by what stands before the name's dot; None means every endpoint."""
    rate: Rate = UNLIMITED
    tenant_rate: Rate = UNLIMITED

    def may_call(self, endpoint: str) -> bool:
        """Whether the key's scope covers an endpoint: ``chat`` and ``chat.completions`` cover the latter."""
        return self.endpoints is None or endpoint in self.endpoints or endpoint.partition(".")[0] in self.endpoints

    def may_use(self, model: str) -> bool:
        """Whether the key's scope covers the resolved model id."""
        return self.models is None or model in self.models


@dataclass(frozen=True)
class Operator:
    """Who calls on the Admin socket: an account, and the person who logged in from it, if one did."""

    uid: int
    name: str
    role: Role
    person: str = ""

    def logged_in(self, person: str, role: Role) -> "Operator":
        """The same with a login: the account decides the most it may do, the login who it is."""
        return Operator(self.uid, self.name, self.role.within(role), person)

    def __str__(self) -> str:
        account = f"{self.name}({self.uid})"
        return f"{self.person} as {account}" if self.person else account
