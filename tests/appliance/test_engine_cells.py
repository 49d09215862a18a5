"""Cells are counted as llama.cpp holds them: against a model that follows its source cell by cell."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugsky.engine.cells import CellMap, NoCellsError

SIZE, SEQUENCES = 24, 5


class PlainCells:
    """``llama_kv_cache`` of one stream, its loops written out: cells with positions and sets of sequences."""

    def __init__(self, size):
        self.cells = [None] * size
        self.head = 0

    def used(self):
        return sum(cell is not None for cell in self.cells)

    def highest(self):
        return max((n + 1 for n, cell in enumerate(self.cells) if cell), default=0)

    def decode(self, tokens):
        head, size, found, tested = self.head, len(self.cells), [], 0
        if head > self.used() + 2 * len(tokens):
            head = 0
        while len(found) < len(tokens):
            if head + 1 > size:
                tested, head = tested + size - head, 0
                continue
            if self.cells[head] is None:
                found.append(head)
            head, tested = head + 1, tested + 1
            if tested >= size and len(found) < len(tokens):
                return False
        for index, (seq, position) in zip(found, tokens, strict=True):
            self.cells[index] = (position, {seq})
        self.head = found[-1] + 1
        return True

    def seq_cp(self, src, dst, start, end):
        for cell in self.cells:
            if cell and start <= cell[0] < end and src in cell[1]:
                cell[1].add(dst)

    def seq_rm(self, seq, start, end=10**9):
        first = None
        for index, cell in enumerate(self.cells):
            if cell and start <= cell[0] < end and seq in cell[1]:
                cell[1].remove(seq)
                if not cell[1]:
                    self.cells[index] = None
                    first = index if first is None else first
        if first is not None and first < self.head:
            self.head = first


class Caches(RuleBasedStateMachine):
    """Both side by side."""

    def __init__(self):
        super().__init__()
        self.map, self.plain = CellMap(SIZE, SEQUENCES), PlainCells(SIZE)
        self.is_live = [False] * SEQUENCES

    @rule(parts=st.lists(st.tuples(st.integers(0, SEQUENCES - 1), st.integers(1, 5)), min_size=1, max_size=4))
    def decode(self, parts):
        parts = list(dict(parts).items())
        tokens = [(seq, self.map.length(seq) + n) for seq, count in parts for n in range(count)]
        if self.plain.decode(tokens):
            self.map.take(parts)
        else:
            with pytest.raises(NoCellsError):
                self.map.take(parts)

    @rule(src=st.integers(0, SEQUENCES - 1), dst=st.integers(0, SEQUENCES - 1), length=st.integers(1, 9))
    def copy(self, src, dst, length):
        if self.map.length(dst) == 0 and length <= self.map.length(src):
            self.plain.seq_cp(src, dst, 0, length)
            self.map.share(src, dst, length)

    @rule(seq=st.integers(0, SEQUENCES - 1), start=st.integers(0, 9))
    def remove(self, seq, start):
        self.plain.seq_rm(seq, start)
        self.map.cut(seq, start)

    @rule(seq=st.integers(0, SEQUENCES - 1), live=st.booleans())
    def park_or_wake(self, seq, live):
        self.is_live[seq] = live
        self.map.set_live(seq, live)

    @precondition(lambda self: self.map.used)
    @rule(most=st.integers(1, 6))
    def move_the_topmost(self, most):
        holders, start, end = self.map.topmost(range(SEQUENCES), most)
        top = self.plain.cells[self.plain.highest() - 1]
        assert set(holders) == top[1]
        assert start <= top[0] < end <= start + most
        for seq in holders:
            self.plain.seq_rm(seq, start, end)
        assert self.plain.decode([(holders[0], position) for position in range(start, end)])
        for seq in holders[1:]:
            self.plain.seq_cp(holders[0], seq, start, end)
        self.map.move(holders, start, end)

    @invariant()
    def they_agree(self):
        live = [cell for cell in self.plain.cells if cell and any(self.is_live[seq] for seq in cell[1])]
        assert self.map.used == self.plain.used()
        assert self.map.highest == self.plain.highest()
        assert self.map.live == len(live)
        assert self.map.parked == self.plain.used() - len(live)
        assert self.map._head == self.plain.head
        for seq in range(SEQUENCES):
            held = [cell for cell in self.plain.cells if cell and seq in cell[1]]
            assert self.map.length(seq) == len(held)
            assert self.map.exclusive(seq) == sum(len(cell[1]) == 1 for cell in held)
            cells = {self.plain.cells[index][0] for index in self.map._held(seq)}
            assert cells == {cell[0] for cell in held}, "each position where llama.cpp has it"


Caches.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestCaches = Caches.TestCase
