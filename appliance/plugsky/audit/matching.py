"""Which requests the trail and the ledger tell differently, in memory that does not grow with them. Pure.

A request, as its record or its ledger entry tells it, is one element of a multiset under a hash whose key is drawn anew
each time (MSet-Add-Hash: Clarke, Devadas, van Dijk, Gassend, Suh 2003). By their ids requests fall into
:data:`GROUPS` groups; a record adds its hash to the sum of its group, an entry takes its own from it. A group whose sum
is nought tells the same in both, whatever the order; who does not know the key cannot make it so otherwise. Only the
groups that differ are then read again and compared request by request.

Requests settled since ``before_us`` are left out of the sums and always compared: an entry among them may still wait
for its record.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final

from plugsky.audit.events import COUNTS, DETAILS, TIMES, ClosedEntry
from plugsky.audit.trail import Record
from plugsky.core.clock import rfc3339
from plugsky_bundles.errors import printable

GROUPS: Final = 1 << 16
MAX_COMPARED: Final = 100_000
"""About so many requests of groups that differ are compared one by one; further groups are counted."""
COMPARED: Final = (
    "tenant",
    "key_id",
    "requested_model",
    "model",
    "digest",
    *COUNTS,
    "service_class",
    "state",
    *TIMES,
    *DETAILS,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ABSENT: Final = tuple(0 if name in DETAILS else None for name in COMPARED)
"""What a record says of each by saying nothing."""
_of_entry = attrgetter("job", "outcome", *COMPARED)


def told(value: object) -> object:
    """A value of the ledger as a record tells it."""
    return printable(value) if isinstance(value, str) else value


def differing(record: Record, entry: ClosedEntry) -> list[str]:
    """The facts in which a record differs from its entry."""
    said = [*map(record.fields.get, COMPARED, _ABSENT), record.outcome]
    names = (*COMPARED, "outcome")
    return [name for name, value in zip(names, said, strict=True) if value != told(getattr(entry, name))]


@dataclass
class Compared:
    """Requests to be compared one by one."""

    records: list[Record] = field(default_factory=list)
    entries: dict[str, ClosedEntry] = field(default_factory=dict)


class Matching:
    """What was counted of records and entries so far. The chains are read before the ledger is."""

    def __init__(self, before_us: int) -> None:
        self.records = self.entries = self.tokens = 0
        self.used_keys: set[str] = set()
        """The ids of keys that made requests before ``before_us``."""
        self.recent = Compared()
        self._before_us = before_us
        self._before = rfc3339(_EPOCH + timedelta(microseconds=before_us))
        self._key = secrets.token_bytes(32)
        self._sums = [0] * GROUPS
        self._counts = [0] * GROUPS

    def record(self, record: Record) -> None:
        """Counts the record of a request."""
        self.records += 1
        if record.time < self._before:
            self.used_keys.add(str(record.fields.get("key_id")))
        if self._is_recent(record.fields.get("settled_us")):
            self.recent.records.append(record)
        else:
            self._count(record.subject, (record.subject, record.outcome, *map(record.fields.get, COMPARED, _ABSENT)), 1)

    def entry(self, entry: ClosedEntry) -> None:
        """Counts a closed entry."""
        self.entries += 1
        self.tokens += entry.prompt_tokens + entry.completion_tokens
        if self._is_recent(entry.settled_us):
            self.recent.entries[entry.job] = entry
        else:
            self._count(entry.job, tuple(map(told, _of_entry(entry))), -1)

    def differing(self) -> tuple[frozenset[int], int]:
        """The groups to compare one by one, and how many more differ."""
        found = [group for group, total in enumerate(self._sums) if total]
        compared = taken = 0
        for group in found:
            if compared >= MAX_COMPARED:
                break
            compared += self._counts[group]
            taken += 1
        return frozenset(found[:taken]), len(found) - taken

    def choose(self, groups: Collection[int], into: Compared, it: Record | ClosedEntry) -> None:
        """Keeps ``it`` in ``into`` when it is in one of ``groups``, or is recent."""
        if isinstance(it, Record):
            if hash(it.subject) % GROUPS in groups or self._is_recent(it.fields.get("settled_us")):
                into.records.append(it)
        elif hash(it.job) % GROUPS in groups or self._is_recent(it.settled_us):
            into.entries[it.job] = it

    def _is_recent(self, settled_us: object) -> bool:
        return isinstance(settled_us, int) and settled_us >= self._before_us

    def _count(self, request: str, facts: tuple[object, ...], sign: int) -> None:
        digest = hashlib.blake2b(repr(facts).encode("utf-8", "surrogatepass"), key=self._key, digest_size=32).digest()
        group = hash(request) % GROUPS
        self._sums[group] += sign * int.from_bytes(digest, "big")
        self._counts[group] += 1
