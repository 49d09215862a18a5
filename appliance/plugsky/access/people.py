"""People: accounts of the host, and the role that each has on the Admin socket.

The kernel says whose process is at the socket; the role is what this room says of that account. It holds for the
account *and* the uid that it had when the role was given: an account that was removed and made anew has none. Methods
but :meth:`People.role_of` use the database: call them in a thread.
"""

import pwd
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlmodel import col

from plugsky.access.checked import bad
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Role
from plugsky.state import Database, Person

MAX_PEOPLE: Final = 1000


@dataclass(frozen=True)
class PersonRecord:
    """An account with a role. Times in microseconds since the Unix epoch."""

    account: str
    uid: int
    role: Role
    created_us: int


Witness = Callable[[PersonRecord], object]
"""Called inside the transaction, before it commits; what it raises undoes the change."""


class People:
    """The people of one site. One process of it answers on the Admin socket, so what it knows is what there is."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._roles = {(person.uid, person.account): person.role for person in self.list()}

    def role_of(self, uid: int, account: str) -> Role | None:
        """The role that an account was given; None for none."""
        return self._roles.get((uid, account))

    def list(self) -> tuple[PersonRecord, ...]:
        """Everybody who was given a role, by account."""
        with self._database.read() as session:
            return tuple(map(_record, session.scalars(select(Person).order_by(col(Person.account)))))

    def set(self, account: str, role: str, witness: Witness | None = None) -> PersonRecord:
        """Give an account a role. Raises BAD_REQUEST for a role that is none, NOT_FOUND for an account that is none."""
        if role not in {each.value for each in Role}:
            raise bad("role", "there is no such role", f"there are {', '.join(each.value for each in Role)}")
        try:
            uid = pwd.getpwnam(account).pw_uid
        except (KeyError, ValueError):
            raise PlugskyError(
                ErrorKind.NOT_FOUND, "there is no such account on this host", next="getent passwd", param="account"
            ) from None
        row = Person(account=account, uid=uid, role=role, created_us=unix_us(self._clock.now()))
        with self._database.write() as session:
            if session.get(Person, account) is None and len(list(session.scalars(select(Person)))) >= MAX_PEOPLE:
                raise bad("account", "there are too many people", f"a site has {MAX_PEOPLE} at most")
            row = session.merge(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        self._roles = {who: has for who, has in self._roles.items() if who[1] != account}
        self._roles[uid, account] = record.role
        return record

    def remove(self, account: str, witness: Witness | None = None) -> PersonRecord:
        """Take an account's role away. Raises NOT_FOUND for one that has none."""
        with self._database.write() as session:
            row = session.get(Person, account)
            if row is None:
                raise PlugskyError(
                    ErrorKind.NOT_FOUND, "this account has no role here", next="plugsky person list", param="account"
                )
            record = _record(row)
            session.delete(row)
            session.flush()
            if witness is not None:
                witness(record)
        self._roles.pop((record.uid, record.account), None)
        return record


def _record(row: Person) -> PersonRecord:
    return PersonRecord(row.account, row.uid, Role(row.role), row.created_us)
