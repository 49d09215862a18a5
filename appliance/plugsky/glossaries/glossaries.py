"""The glossaries of one site. A tenant sees its own only; what is of one pair of languages is one dictionary.

Every method uses the database: call them in a thread, not on an event loop.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import new_id
from plugsky.state import Database, Glossary, GlossaryDictionary

MAX_GLOSSARIES: Final = 1_000
MAX_DICTIONARIES: Final = 100
MAX_NAME: Final = 1_024
Pair = tuple[str, str]
"""Source and target language, in upper case and without a region."""


@dataclass(frozen=True)
class GlossaryRecord:
    """A glossary as it stands: how many entries each pair of languages has. ``created_us`` is since the Unix epoch."""

    id: str
    name: str
    created_us: int
    counts: Mapping[Pair, int]


class Glossaries:
    """The glossaries of one site."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(self, tenant: str, name: str, dictionaries: Mapping[Pair, Mapping[str, str]]) -> GlossaryRecord:
        """A new glossary. Raises BAD_REQUEST for its name, QUOTA_EXHAUSTED for too many."""
        _check_name(name)
        with self._database.write() as session:
            count = session.scalar(select(func.count()).where(col(Glossary.tenant) == tenant))
            if (count or 0) >= MAX_GLOSSARIES:
                raise PlugskyError(
                    ErrorKind.QUOTA_EXHAUSTED,
                    f"This tenant has {MAX_GLOSSARIES} glossaries, which is the limit",
                    next="delete those that are not needed any more",
                )
            row = Glossary(id=new_id(), tenant=tenant, name=name, created_us=unix_us(self._clock.now()))
            session.add(row)
            session.flush()
            for pair, entries in dictionaries.items():
                session.add(_dictionary(row.id, pair, entries))
            session.flush()
            return _record(session, row)

    def get(self, tenant: str, glossary_id: str) -> GlossaryRecord:
        """A tenant's glossary. Raises NOT_FOUND."""
        with self._database.read() as session:
            return _record(session, _mine(session, tenant, glossary_id))

    def list(self, tenant: str) -> tuple[GlossaryRecord, ...]:
        """A tenant's glossaries, the oldest first."""
        query = select(Glossary).where(col(Glossary.tenant) == tenant).order_by(col(Glossary.id))
        with self._database.read() as session:
            return tuple(_record(session, row) for row in session.scalars(query).all())

    def entries(self, tenant: str, glossary_id: str, pair: Pair) -> dict[str, str]:
        """The entries of one pair of languages. Raises NOT_FOUND."""
        with self._database.read() as session:
            _mine(session, tenant, glossary_id)
            row = session.get(GlossaryDictionary, (glossary_id, *pair))
        if row is None:
            raise PlugskyError(ErrorKind.NOT_FOUND, f"The glossary has no dictionary from {pair[0]} to {pair[1]}")
        found: dict[str, str] = json.loads(row.entries)
        return found

    def change(
        self,
        tenant: str,
        glossary_id: str,
        name: str | None,
        dictionaries: Mapping[Pair, Mapping[str, str]],
        *,
        replace: bool = False,
    ) -> GlossaryRecord:
        """Give it another name, and add entries to its dictionaries, or with ``replace`` put them in their place."""
        if name is not None:
            _check_name(name)
        with self._database.write() as session:
            row = _mine(session, tenant, glossary_id)
            row.name = row.name if name is None else name
            session.add(row)
            for pair, entries in dictionaries.items():
                found = session.get(GlossaryDictionary, (glossary_id, *pair))
                before = {} if found is None or replace else json.loads(found.entries)
                session.merge(_dictionary(glossary_id, pair, before | dict(entries)))
            session.flush()
            return _record(session, row)

    def delete(self, tenant: str, glossary_id: str) -> None:
        """Remove a glossary. Raises NOT_FOUND."""
        with self._database.write() as session:
            _mine(session, tenant, glossary_id)
            mine = col(GlossaryDictionary.glossary) == glossary_id
            session.execute(delete(GlossaryDictionary).where(mine))
            session.execute(delete(Glossary).where(col(Glossary.id) == glossary_id))

    def delete_dictionary(self, tenant: str, glossary_id: str, pair: Pair) -> None:
        """Remove one pair of languages. Raises NOT_FOUND."""
        with self._database.write() as session:
            _mine(session, tenant, glossary_id)
            row = session.get(GlossaryDictionary, (glossary_id, *pair))
            if row is None:
                raise PlugskyError(ErrorKind.NOT_FOUND, f"The glossary has no dictionary from {pair[0]} to {pair[1]}")
            session.delete(row)


def _mine(session: Session, tenant: str, glossary_id: str) -> Glossary:
    row = session.get(Glossary, glossary_id)
    if row is None or row.tenant != tenant:
        raise PlugskyError(ErrorKind.NOT_FOUND, "There is no glossary of that id")
    return row


def _dictionary(glossary_id: str, pair: Pair, entries: Mapping[str, str]) -> GlossaryDictionary:
    return GlossaryDictionary(
        glossary=glossary_id, source=pair[0], target=pair[1], count=len(entries), entries=json.dumps(dict(entries))
    )


def _record(session: Session, row: Glossary) -> GlossaryRecord:
    columns = (col(GlossaryDictionary.source), col(GlossaryDictionary.target), col(GlossaryDictionary.count))
    query = select(*columns).where(col(GlossaryDictionary.glossary) == row.id).order_by(*columns[:2])
    counts = {(source, target): count for source, target, count in session.execute(query)}
    return GlossaryRecord(row.id, row.name, row.created_us, counts)


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or any(ord(letter) < 32 for letter in name):
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The parameter name cannot be used",
            why=f"it has 1 to {MAX_NAME} characters, none of control",
            param="name",
        )
