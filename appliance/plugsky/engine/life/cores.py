"""Which engine computes with how many cores: a pure lease table, told who is busy, that says whom to tell what.

Two engines with two threads each on two cores are several times slower than with one each, so:
* the shares of busy engines never add up to more than the cores, except that each has at least one;
* busy engines share evenly; what is left over stays with those that had more, then goes by name;
* an idle engine is told one core: it computes nothing, and begins with one when it wakes;
* an engine that falls idle keeps its share for ``HOLD_US``, so that pauses between requests change nothing;
* engines that give up cores are told before those that get them.
Equal calls give equal leases.
"""

from collections.abc import Collection, Mapping
from typing import Final

HOLD_US: Final = 1_000_000


def shares(cores: int, busy: Collection[str], held: Mapping[str, int]) -> dict[str, int]:
    """The cores of each busy engine, given what each ``held`` until now."""
    if not busy:
        return {}
    even, left = divmod(cores, len(busy))
    order = sorted(busy, key=lambda name: (-held.get(name, 0), name))
    return {name: max(1, even + (place < left)) for place, name in enumerate(order)}


class Leases:
    """The lease table of one host's engines."""

    def __init__(self, cores: int) -> None:
        self._cores = max(1, cores)
        self._held: dict[str, int] = {}
        self._busy_until: dict[str, int] = {}

    @property
    def held(self) -> Mapping[str, int]:
        """The cores that each engine was last told."""
        return dict(self._held)

    def observe(self, busy: Mapping[str, bool], now_us: int) -> list[tuple[str, int]]:
        """What to tell whom, in this order. ``busy`` names every engine that serves; others have lost their lease."""
        for name in self._held.keys() - busy.keys():
            del self._held[name]
        self._busy_until = {name: end for name, end in self._busy_until.items() if name in busy and end > now_us}
        self._busy_until |= {name: now_us + HOLD_US for name, works in busy.items() if works}
        wanted = dict.fromkeys(sorted(busy), 1) | shares(self._cores, self._busy_until.keys(), self._held)
        news = [(name, n) for name, n in wanted.items() if self._held.get(name) != n]
        news.sort(key=lambda change: (change[1] > self._held.get(change[0], 0), change[0]))
        self._held = wanted
        return news
