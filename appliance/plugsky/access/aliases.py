"""Aliases: other names of models, so that old code keeps the name it has, with parameters that it does not give.

An alias holds for the whole site, or for one tenant, which then goes before the site's. It may be any name that public
APIs have (``gpt-4o``, ``mistral-large-latest``, ``org/model:tag``), but none of a model that is here: that would answer
for another in silence. Every method uses the database: call them in a thread.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select
from sqlmodel import col

from plugsky.access.checked import bad, checked_tenant
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import is_model_id
from plugsky.state import Alias, Database

MAX_ALIASES: Final = 1000
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repeat_penalty": (0.01, 10),
    "max_tokens": (1, 2**31 - 1),
}
"""The parameters that an alias may bring, each with its least and its greatest value."""
_WHOLE: Final = frozenset({"top_k", "max_tokens"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}\Z")


@dataclass(frozen=True)
class AliasRecord:
    """An alias. ``tenant`` is empty for one that the whole site has."""

    name: str
    tenant: str
    model: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    created_us: int = 0


Witness = Callable[[AliasRecord], object]
"""Called inside the transaction, before it commits; what it raises undoes the change."""


class Aliases:
    """The aliases of one site."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def list(self) -> tuple[AliasRecord, ...]:
        """Every alias, by name."""
        with self._database.read() as session:
            return tuple(map(_record, session.scalars(select(Alias).order_by(col(Alias.name), col(Alias.tenant)))))

    def set(
        self,
        name: str,
        model: str,
        tenant: str = "",
        defaults: Mapping[str, float] | None = None,
        witness: Witness | None = None,
    ) -> AliasRecord:
        """Make an alias, or point it elsewhere. Raises BAD_REQUEST for a name, a model or a default that cannot be."""
        if tenant:
            checked_tenant(tenant)
        if not _NAME.match(name):
            raise bad("name", "the alias cannot have that name", "1 to 128 of A-Z a-z 0-9 . _ : / @ -")
        if not is_model_id(model):
            raise bad("model", "an alias names a model of this site", "see plugsky model list")
        row = Alias(
            name=name,
            tenant=tenant,
            model=model,
            defaults=json.dumps(_checked(defaults or {}), sort_keys=True),
            created_us=unix_us(self._clock.now()),
        )
        with self._database.write() as session:
            if session.get(Alias, (name, tenant)) is None and len(list(session.scalars(select(Alias)))) >= MAX_ALIASES:
                raise bad("name", "there are too many aliases", f"a site has {MAX_ALIASES} at most")
            row = session.merge(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        return record

    def remove(self, name: str, tenant: str = "", witness: Witness | None = None) -> AliasRecord:
        """Forget an alias. Raises NOT_FOUND for one that is not there."""
        with self._database.write() as session:
            row = session.get(Alias, (name, tenant))
            if row is None:
                raise PlugskyError(
                    ErrorKind.NOT_FOUND, "there is no such alias", next="plugsky alias list", param="name"
                )
            record = _record(row)
            session.delete(row)
            session.flush()
            if witness is not None:
                witness(record)
        return record


def _checked(defaults: Mapping[str, float]) -> dict[str, float]:
    for name, value in defaults.items():
        if name not in RANGES:
            raise bad("defaults", f"an alias cannot bring {name!r}", f"it may bring {', '.join(RANGES)}")
        least, most = RANGES[name]
        if isinstance(value, bool) or not least <= value <= most or (name in _WHOLE and value != int(value)):
            raise bad("defaults", f"`{name}` cannot be {value}", f"{least:g} to {most:g}")
    return {name: int(value) if name in _WHOLE else float(value) for name, value in defaults.items()}


def _record(row: Alias) -> AliasRecord:
    return AliasRecord(row.name, row.tenant, row.model, json.loads(row.defaults), row.created_us)
