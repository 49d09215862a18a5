"""The sequences in a context's KV cache: who holds which cells, who may go, and the operations that make it so.

Pure: it changes its own books and leaves :class:`~plugsky.engine.scheduling.plan.Op` values to be carried out, in their
order, before anything is computed. Guarantees, held by tests over random schedules:

1. A newcomer holds the cells of the longest beginning it has in common with a sequence of its own root, or of a public
   one, that runs or is parked; every token is compared. At least one token is left to compute, and no image is cut
   (:mod:`.virtual`).
2. A finished sequence is parked, unless others hold all of its cells. Parked cells are at most half of the cache; the
   one used longest ago goes first, and with it just the cells that nobody else holds. Where parked cells outnumber
   those in use, one sequence a step moves to host memory (:mod:`.shelf`), because a step is slowed by all of them.
3. What is pinned is never evicted. What runs is never evicted, only saved or dropped by the scheduler's choice.
4. What is saved is the part that nobody else holds; saved cells are bounded, and short ones are computed again instead.
   Tasks that come back go before what is kept of ended ones.
5. When the highest cell in use is over twice the cells in use, cells are moved down, a bounded number per step.

``reuse`` says what the model's memory can do: ``prefix`` for plain attention; ``whole`` where a sequence cannot be cut
(recurrent and hybrid models, and a sliding window without its old cells), so that only a whole sequence can be gone on
with and nothing is saved or moved; ``none`` for nothing at all.
"""

import heapq
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.cells import CellMap
from plugsky.engine.scheduling.plan import TO_THE_END, Copy, Forget, Op, Remove, Restore, Save
from plugsky.engine.scheduling.prefix import PrefixTree, Resident, TokenBuffer
from plugsky.engine.scheduling.shelf import Shelf, Stored

Reuse = Literal["prefix", "whole", "none"]

SAVE_MIN: Final = 32
"""Cells from which saving beats computing again."""
COMPACT_MIN: Final = 512
"""Below this highest cell a step is not slower: llama.cpp rounds up to 256."""
MOVED_PER_STEP: Final = 256
PARKED_MIN: Final = 512
"""Parked cells that are left where they are, however few are in use."""
_REST: Final = 64


@dataclass(frozen=True, slots=True)
class Match:
    """What a newcomer can share: ``ready`` tokens with ``source`` now, ``promised`` ones once ``owner`` has them."""

    source: Resident | None = None
    ready: int = 0
    owner: Resident | None = None
    promised: int = 0


class KvCache:
    """``cells`` cells under ``sequences`` sequences; up to ``saved`` more may lie in host memory.

    ``spare`` cells of the context are left to others, see :class:`.cells.CellMap`.
    """

    def __init__(self, cells: int, sequences: int, saved: int, reuse: Reuse, spare: int = 0) -> None:
        self.map = CellMap(cells, sequences, spare)
        self.saved = 0
        self._saved_most = saved
        self._reuse = reuse
        self._tree = PrefixTree()
        self.shelf = Shelf()
        self._parked: dict[Resident, None] = {}
        self._pinned: set[Resident] = set()
        self._in_use: set[int] = set()
        self._free = list(range(sequences))
        self._tails: dict[int, tuple[int, int]] = {}
        self._ops: list[Op] = []
        self._loose = False
        self._rest = 0
        self._moves = 0

    @property
    def available(self) -> int:
        """Cells that are free or can be made free by evicting."""
        return self.map.free + self.map.parked

    @property
    def sequences_left(self) -> int:
        """Sequences that are free or can be made free by evicting."""
        return len(self._free) + len(self._parked)

    @property
    def parked_sequences(self) -> int:
        """Sequences kept for whoever begins like them."""
        return len(self._parked)

    def take_ops(self) -> tuple[Op, ...]:
        """What is to be carried out on the context before anything else."""
        ops, self._ops = tuple(self._ops), []
        return ops

    def match(self, roots: Iterable[Hashable], tokens: TokenBuffer, most: int) -> Match:
        """The longest common beginnings, of at most ``most`` tokens, now and to come."""
        if self._reuse == "none" or most < 1:
            return Match()
        source = owner = None
        ready = promised = 0
        wanted = tokens.array(0, tokens.length)
        for root in roots:
            for alike in self._tree.alike(root, wanted):
                length, resident = virtual.whole(wanted, min(alike.length, most)), alike.resident
                if length <= ready:
                    break
                if self._reuse == "prefix":
                    now, later = min(length, resident.computed), length
                else:
                    now = later = resident.computed if resident.computed <= length else 0
                if now > ready:
                    source, ready = resident, now
                if resident.running and later > promised:
                    owner, promised = resident, later
        if promised <= ready:
            owner, promised = None, 0
        return Match(source, ready, owner, promised)

    def cost(self, match: Match) -> int:
        """Cells that sharing ``match`` would take from what is available: parked ones come into use."""
        return 0 if match.source is None else self.map.parked_within(match.source.seq, match.ready)

    def enter(self, root: Hashable, tokens: TokenBuffer, match: Match, most: int) -> Resident:
        """Give a newcomer a sequence with the cells of ``match``, and what more of its first ``most`` tokens was saved.

        There must be a sequence left.
        """
        source = match.source
        if not self._free:
            others = (parked for parked in self._parked if parked is not source)
            victim = next(others, None)
            if victim is None:
                source = None
                victim = next(iter(self._parked))
            self._put_away(victim)
        resident = Resident(heapq.heappop(self._free), root, tokens)
        self._in_use.add(resident.seq)
        self.map.set_live(resident.seq, True)
        if source is not None:
            end = match.ready if self._reuse == "prefix" else TO_THE_END
            self._ops.append(Copy(source.seq, resident.seq, 0, end))
            self.map.share(source.seq, resident.seq, match.ready)
            resident.computed = match.ready
            self._touch(source)
        self._tree.add(resident)
        self._fetch(resident, most)
        return resident

    def extend(self, parts: Sequence[tuple[Resident, int]]) -> None:
        """One batch was computed: each resident has that many more tokens in cells."""
        self.map.take([(resident.seq, count) for resident, count in parts])
        for resident, count in parts:
            resident.computed += count

    def park(self, resident: Resident) -> None:
        """Keep a sequence that nobody runs any more for whoever begins like it, if it holds anything of its own."""
        if self._reuse == "none" or not resident.computed or self._is_covered(resident):
            self.drop(resident)
            return
        self._tree.remove(resident)
        resident.tokens.cut(resident.computed)
        resident.running = False
        self._tree.add(resident)
        self.map.set_live(resident.seq, False)
        self._parked[resident] = None
        self._trim()

    def pin(self, resident: Resident) -> None:
        """Keep a sequence until :meth:`drop`."""
        resident.running, resident.pinned = False, True
        self._pinned.add(resident)

    def drop(self, resident: Resident) -> None:
        """Give back a sequence and the cells nobody else holds; those shared with parked ones are now parked."""
        self._release(resident)
        self._trim()

    def make_room(self, count: int) -> bool:
        """Evict parked sequences until ``count`` cells are free; whether they are."""
        while self.map.free < count and self._parked:
            self._put_away(self._next_victim())
        return self.map.free >= count

    def evict_all(self) -> None:
        """Give back everything that is kept of ended requests."""
        for resident in list(self._parked):
            self._release(resident)
        while self._discard_oldest():
            pass

    def suspend(self, ticket: int, resident: Resident) -> None:
        """Take all cells from a sequence that will come back, and save those that nobody else holds if it pays."""
        start = self.map.shared(resident.seq)
        length = resident.computed - start
        if self._reuse == "prefix" and length >= SAVE_MIN and self._has_host_memory(length):
            self._ops.append(Save(ticket, resident.seq, start, resident.computed))
            self._tails[ticket] = (start, resident.computed)
            self.saved += length
        self.drop(resident)

    def tail(self, ticket: int) -> tuple[int, int] | None:
        """The positions saved for ``ticket``."""
        return self._tails.get(ticket)

    def resume(self, ticket: int, resident: Resident) -> None:
        """Put back what was saved for ``ticket``; ``resident`` has everything before it, and there is room."""
        start, end = self._tails.pop(ticket)
        self._ops.append(Restore(ticket, resident.seq, start, end))
        self.saved -= end - start
        self.extend([(resident, end - start)])

    def forget(self, ticket: int) -> None:
        """What was saved for ``ticket``, if anything, is of no use any more."""
        tail = self._tails.pop(ticket, None)
        if tail is not None:
            self._ops.append(Forget(ticket))
            self.saved -= tail[1] - tail[0]

    def clear_away(self) -> None:
        """Move one parked sequence to host memory where more is parked than in use; to be called once a step."""
        if self.map.parked > max(PARKED_MIN, self.map.live):
            victim = self._next_victim()
            if self._reuse == "prefix" and self.map.exclusive(victim.seq) <= self._saved_most:
                self._put_away(victim)

    def compact(self) -> int:
        """Move cells down if they lie too high; how many were moved. Cheap when nothing was given back since."""
        if not self._loose or self._reuse != "prefix":
            return 0
        if self._rest:
            self._rest -= 1
            return 0
        highest = self.map.highest
        if highest <= max(COMPACT_MIN, 2 * self.map.used):
            self._loose = False
            return 0
        holders, start, end = self.map.topmost(sorted(self._in_use), MOVED_PER_STEP)
        carrier, ticket = holders[0], self._new_ticket()
        self._ops.append(Save(ticket, carrier, start, end))
        self._ops += [Remove(seq, start, end) for seq in holders[1:]]
        self._ops.append(Restore(ticket, carrier, start, end))
        self._ops += [Copy(carrier, seq, start, end) for seq in holders[1:]]
        self.map.move(holders, start, end)
        if self.map.highest >= highest:
            self._rest = _REST
        return end - start

    def _is_covered(self, resident: Resident) -> bool:
        return self._reuse == "prefix" and not self.map.exclusive(resident.seq)

    def _touch(self, source: Resident) -> None:
        """``source`` was of use; drop it if the newcomer holds all it has."""
        if source in self._parked:
            if self._is_covered(source):
                self._release(source)
            else:
                del self._parked[source]
                self._parked[source] = None

    def _next_victim(self) -> Resident:
        """The parked sequence used longest ago that gives cells back."""
        oldest = next(iter(self._parked))
        return next((resident for resident in self._parked if self.map.exclusive(resident.seq)), oldest)

    def _trim(self) -> None:
        while self.map.parked > self.map.size // 2:
            self._put_away(self._next_victim())

    def _put_away(self, resident: Resident) -> None:
        """Take a parked sequence out of the cache; what nobody else holds of it is saved if that pays."""
        start, end = self.map.shared(resident.seq), resident.computed
        worth = self._reuse == "prefix" and end - start >= SAVE_MIN
        covered = worth and self.shelf.covers(resident.root, resident.tokens, start)
        if worth and not covered and self._has_host_memory(end - start):
            stored = Stored(self._new_ticket(), start, end)
            self._ops.append(Save(stored.ticket, resident.seq, start, end))
            self.shelf.put(resident, stored)
            self.saved += stored.cells
        self._release(resident)

    def _fetch(self, resident: Resident, most: int) -> None:
        """Put back what was saved of the first ``most`` tokens of ``resident``, as far as there is room."""
        while (found := self.shelf.find(resident, most, SAVE_MIN)) is not None:
            stored = found.stored
            self.shelf.touch(found.resident)
            if not self.make_room(stored.cells):
                return
            if found.resident not in self.shelf:  # the room was made by saving others
                continue
            if resident.computed > stored.start:
                self._ops.append(Remove(resident.seq, stored.start, TO_THE_END))
                self.map.cut(resident.seq, stored.start)
                resident.computed = stored.start
            partly = found.end < stored.end
            self._ops.append(Restore(stored.ticket, resident.seq, stored.start, found.end, keep=partly))
            self.extend([(resident, stored.cells)])
            if partly:
                self.map.cut(resident.seq, found.end)
                resident.computed = found.end
            else:
                self.shelf.take(found.resident)
                self.saved -= stored.cells

    def _has_host_memory(self, cells: int) -> bool:
        """Whether so many more cells may be saved, once the oldest copies of ended requests have given way."""
        while self.saved + cells > self._saved_most:
            if cells > self._saved_most or not self._discard_oldest():
                return False
        return True

    def _discard_oldest(self) -> bool:
        oldest = self.shelf.oldest()
        if oldest is None:
            return False
        stored = self.shelf.take(oldest)
        self._ops.append(Forget(stored.ticket))
        self.saved -= stored.cells
        return True

    def _new_ticket(self) -> int:
        """A ticket that is no request's."""
        self._moves += 1
        return -self._moves

    def _release(self, resident: Resident) -> None:
        self._tree.remove(resident)
        resident.running = False
        self._parked.pop(resident, None)
        self._pinned.discard(resident)
        self._ops.append(Remove(resident.seq, 0, TO_THE_END))
        self.map.cut(resident.seq, 0)
        self.map.set_live(resident.seq, False)
        self._in_use.remove(resident.seq)
        heapq.heappush(self._free, resident.seq)
        self._loose = True
