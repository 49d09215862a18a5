"""Who asks: the result of authentication, and the roles it can carry."""

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """Roles of people on the Admin socket; a higher one may do what a lower one may, the auditor apart."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True)
class Principal:
    """The owner of an API key: a tenant's program. Made by ``access`` only, after the key's digest matched."""

    tenant: str
    key_id: str
    models: frozenset[str] | None = None
    """Model ids this key may use; None means every model of the site."""
    weight: int = 1

    def may_use(self, model: str) -> bool:
        """Whether the key's scope covers the resolved model id."""
        return self.models is None or model in self.models


@dataclass(frozen=True)
class Operator:
    """A person or process on the Admin socket: the peer's uid decides the most it may do."""

    uid: int
    name: str
    role: Role
