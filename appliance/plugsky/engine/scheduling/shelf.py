"""Beginnings that lie in host memory: what ended requests left behind, out of the cache, where it slows no step.

A step reads the cache up to the highest cell in use, whoever holds it; copying a sequence out and back takes a few
milliseconds. So a long quiet conversation costs memory only, and its next turn goes on where it ended. Pure books:
the copies themselves are made by the :class:`~plugsky.engine.scheduling.plan.Save` and ``Restore`` of the cache.

A copy holds the part of a sequence that nobody else held: positions from ``start`` to ``end``. It is of use to whoever
has the same tokens before ``start`` in cells, from elsewhere or from another copy.
"""

from dataclasses import dataclass

from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.prefix import PrefixTree, Resident, TokenBuffer


@dataclass(frozen=True, slots=True)
class Stored:
    """A copy: the ticket it is kept under, and its positions."""

    ticket: int
    start: int
    end: int

    @property
    def cells(self) -> int:
        """Cells that it takes to put it back."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Found:
    """``stored`` has the tokens of a newcomer up to ``end``."""

    resident: Resident
    stored: Stored
    end: int


class Shelf:
    """All copies of one context, the one used longest ago first."""

    def __init__(self) -> None:
        self._tree = PrefixTree()
        self._stored: dict[Resident, Stored] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def tickets(self) -> set[int]:
        """The tickets of all copies."""
        return {stored.ticket for stored in self._stored.values()}

    def put(self, resident: Resident, stored: Stored) -> None:
        """Keep a copy of the end of ``resident``, a sequence that is given up."""
        kept = Resident(-1, resident.root, resident.tokens, stored.end, running=False)
        self._tree.add(kept)
        self._stored[kept] = stored

    def find(self, resident: Resident, most: int, gain: int) -> Found | None:
        """The copy that brings ``resident`` furthest, ``gain`` tokens at least and up to position ``most``."""
        tokens = resident.tokens.array(0, resident.tokens.length)
        for alike in self._tree.alike(resident.root, tokens):
            end = virtual.whole(tokens, min(alike.length, most))
            if end < resident.computed + gain:
                return None
            stored = self._stored[alike.resident]
            if stored.start <= resident.computed:
                return Found(alike.resident, stored, end)
        return None

    def covers(self, root: object, tokens: TokenBuffer, start: int) -> bool:
        """Whether there is a copy of ``tokens`` from ``start`` or before; it then counts as just used."""
        for alike in self._tree.alike(root, tokens.array(0, tokens.length)):
            if alike.length < tokens.length:
                return False
            if self._stored[alike.resident].start <= start:
                self.touch(alike.resident)
                return True
        return False

    def touch(self, resident: Resident) -> None:
        """It was of use just now."""
        self._stored[resident] = self._stored.pop(resident)

    def __contains__(self, resident: Resident) -> bool:
        return resident in self._stored

    def take(self, resident: Resident) -> Stored:
        """Keep this copy no longer."""
        self._tree.remove(resident)
        return self._stored.pop(resident)

    def oldest(self) -> Resident | None:
        """What to give up first."""
        return next(iter(self._stored), None)
