"""The physical cells of a unified KV cache, one by one, as llama.cpp hands them out.

A cell holds one token at one position for any number of sequences. Sharing (``seq_cp``) adds a holder to each cell of
a range and moves nothing; letting go (``seq_rm``) takes one away, and a cell is free when its last holder left. So
:attr:`CellMap.used` is the true number of cells in use, however much is shared.

Where new cells lie is mirrored too, because a step reads the cache up to the highest cell in use: the search of
``llama_kv_cache::find_slot`` is deterministic (llama.cpp as of llama-cpp-python 0.3.36: from a head that follows the
last cell taken, falls back to the first cell freed below it, and starts at 0 when it ran far ahead of the cells in
use). Should another version search otherwise, :attr:`used` stays exact and only :attr:`highest` becomes an estimate.

A holder is *live* (a request in flight, a pinned prefix) or parked: cells that no live sequence holds can be had back.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int32]

_ROOM: Final = 256


class NoCellsError(Exception):
    """More cells were asked for than are free: the caller did not count."""


class CellMap:
    """``size`` cells, held by sequences 0 to ``sequences`` - 1. Each holds positions 0 to its length - 1.

    ``spare`` more cells of the cache are never counted on, but may be found.
    """

    def __init__(self, size: int, sequences: int, spare: int = 0) -> None:
        self.size = size
        self.used = 0
        self.live = 0
        self._holders = np.zeros(size + spare, dtype=np.int16)
        self._live_holders = np.zeros(size + spare, dtype=np.int16)
        self._cells: list[Indices] = [np.zeros(0, dtype=np.int32)] * sequences
        self._lengths = [0] * sequences
        self._every = np.arange(size + spare, dtype=np.int32)
        self._taken, self._taken_live = self._holders.data, self._live_holders.data
        self._is_live = [False] * sequences
        self._head = 0
        self._highest: int | None = 0

    @property
    def free(self) -> int:
        """Cells nobody holds."""
        return self.size - self.used

    @property
    def parked(self) -> int:
        """Cells in use that no live sequence holds."""
        return self.used - self.live

    @property
    def highest(self) -> int:
        """One past the highest cell in use. Looks at every cell when some were freed since."""
        if self._highest is None:
            in_use = np.flatnonzero(self._holders)
            self._highest = int(in_use[-1]) + 1 if len(in_use) else 0
        return self._highest

    def length(self, seq: int) -> int:
        """How many positions ``seq`` holds."""
        return self._lengths[seq]

    def exclusive(self, seq: int) -> int:
        """Cells that would be free if ``seq`` let go of everything."""
        return int(np.count_nonzero(self._holders[self._held(seq)] == 1))

    def shared(self, seq: int) -> int:
        """How many of its first positions ``seq`` shares: only beginnings are ever copied, so the rest is its own."""
        return self._lengths[seq] - self.exclusive(seq)

    def parked_within(self, seq: int, length: int) -> int:
        """How many of the first ``length`` cells of ``seq`` no live sequence holds."""
        return int(np.count_nonzero(self._live_holders[self._cells[seq][:length]] == 0))

    def take(self, parts: Iterable[tuple[int, int]]) -> None:
        """One batch: each ``(seq, n)`` gets ``n`` more cells. Raises :class:`NoCellsError`."""
        parts = list(parts)
        total = sum(count for _, count in parts)
        new = self._find(total)
        self._holders[new] = 1
        self.used += total
        at = 0
        for seq, count in parts:
            start = self._lengths[seq]
            end = start + count
            cells = self._cells[seq]
            if end > len(cells):
                cells = self._cells[seq] = self._grown(cells, end)
            part = slice(new.start + at, new.start + at + count) if isinstance(new, slice) else new[at : at + count]
            cells[start:end] = self._every[part]
            self._lengths[seq] = end
            at += count
            if self._is_live[seq]:
                self._live_holders[part] = 1
                self.live += count

    def share(self, src: int, dst: int, length: int) -> None:
        """``dst``, which holds nothing, holds the first ``length`` cells of ``src`` too."""
        cells = self._cells[src][:length]
        self._cells[dst] = self._grown(cells, length)
        self._lengths[dst] = length
        self._holders[cells] += 1
        if self._is_live[dst]:
            self._enliven(cells)

    def cut(self, seq: int, start: int) -> None:
        """``seq`` lets go of its cells from position ``start`` on."""
        cells = self._held(seq)[start:]
        self._lengths[seq] = min(start, self._lengths[seq])
        self._let_go(cells, live=self._is_live[seq])
        if not start:
            self._cells[seq] = self._cells[seq][:0]

    def set_live(self, seq: int, live: bool) -> None:
        """Count ``seq`` as live or as parked."""
        if self._is_live[seq] == live:
            return
        self._is_live[seq] = live
        cells = self._held(seq)
        if live:
            self._enliven(cells)
        else:
            self._live_holders[cells] -= 1
            self.live -= int(np.count_nonzero(self._live_holders[cells] == 0))

    def move(self, holders: Sequence[int], start: int, end: int) -> None:
        """The cells ``holders`` share in ``[start, end)``, and nobody else, are freed and found anew."""
        cells = self._cells[holders[0]][start:end].copy()
        live = sum(self._is_live[seq] for seq in holders)
        self._holders[cells] = 0
        self._live_holders[cells] = 0
        self.used -= len(cells)
        self._head = min(self._head, int(cells.min()))
        self._highest = None
        new = self._find(len(cells))
        self._holders[new] = len(holders)
        self._live_holders[new] = live
        self.used += len(cells)
        for seq in holders:
            self._cells[seq][start:end] = self._every[new]

    def topmost(self, sequences: Iterable[int], most: int) -> tuple[list[int], int, int]:
        """Who of ``sequences`` hold the highest cell in use, and up to ``most`` positions around it just they share."""
        top = self.highest - 1
        holders, position = [], 0
        for seq in sequences:
            found = np.flatnonzero(self._held(seq) == top)
            if len(found):
                holders.append(seq)
                position = int(found[0])
        first = holders[0]
        alike = self._holders[self._held(first)] == len(holders)
        before, after = np.flatnonzero(~alike[:position]), np.flatnonzero(~alike[position:])
        start = int(before[-1]) + 1 if len(before) else 0
        end = position + int(after[0]) if len(after) else self._lengths[first]
        start = max(start, position + 1 - most)
        return holders, start, min(end, start + most)

    def _held(self, seq: int) -> Indices:
        return self._cells[seq][: self._lengths[seq]]

    def _grown(self, cells: Indices, length: int) -> Indices:
        grown = np.zeros(min(self.size, max(2 * length, _ROOM)), dtype=np.int32)
        grown[: len(cells)] = cells
        return grown

    def _enliven(self, cells: Indices) -> None:
        self.live += int(np.count_nonzero(self._live_holders[cells] == 0))
        self._live_holders[cells] += 1

    def _let_go(self, cells: Indices, *, live: bool) -> None:
        if not len(cells):
            return
        if live:
            self._live_holders[cells] -= 1
            self.live -= int(np.count_nonzero(self._live_holders[cells] == 0))
        self._holders[cells] -= 1
        freed = cells[self._holders[cells] == 0]
        if len(freed):
            self.used -= len(freed)
            self._head = min(self._head, int(freed.min()))
            self._highest = None

    def _find(self, count: int) -> Indices | slice:
        """Where ``count`` new cells lie; a slice where they lie side by side, as they nearly always do."""
        if count > self.free:
            raise NoCellsError(f"{count} cells wanted, {self.free} free")
        if not count:
            return slice(0, 0)
        head = 0 if self._head > self.used + 2 * count else self._head
        end = head + count
        if end <= len(self._taken) and not any(self._taken[head:end]):
            self._head = end
            if self._highest is not None:
                self._highest = max(self._highest, end)
            return slice(head, end)
        free = np.flatnonzero(self._holders == 0).astype(np.int32)
        at = int(np.searchsorted(free, head))
        new = np.concatenate([free[at : at + count], free[: max(0, at + count - len(free))]])
        self._head = int(new[-1]) + 1
        self._highest = None
        return new
