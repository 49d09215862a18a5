"""Cells are counted as llama.cpp holds them: against a model that follows its source cell by cell."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.cell_context import FAR, CellContext
from plugsky.engine.scheduling.cells import CellMap, NoCellsError

SIZE, SEQUENCES = 24, 5
SEQUENCE = st.integers(0, SEQUENCES - 1)


class Caches(RuleBasedStateMachine):
    """Both side by side."""

    def __init__(self):
        super().__init__()
        self.map, self.plain = CellMap(SIZE, SEQUENCES), CellContext(SIZE, SEQUENCES)
        self.is_live = [False] * SEQUENCES

    @rule(parts=st.lists(st.tuples(SEQUENCE, st.integers(1, 5)), min_size=1, max_size=4))
    def decode(self, parts):
        parts = list(dict(parts).items())
        tokens = [(seq, self.map.length(seq) + n, 0, "") for seq, count in parts for n in range(count)]
        if self.plain.place(tokens):
            self.map.take(parts)
        else:
            with pytest.raises(NoCellsError):
                self.map.take(parts)

    @rule(src=SEQUENCE, dst=SEQUENCE, length=st.integers(1, 9))
    def copy(self, src, dst, length):
        if self.map.length(dst) == 0 and length <= self.map.length(src):
            self.plain.seq_cp(src, dst, 0, length)
            self.map.share(src, dst, length)

    @rule(seq=SEQUENCE, start=st.integers(0, 9))
    def remove(self, seq, start):
        self.plain.seq_rm(seq, start, FAR)
        self.map.cut(seq, start)

    @rule(seq=SEQUENCE, live=st.booleans())
    def park_or_wake(self, seq, live):
        self.is_live[seq] = live
        self.map.set_live(seq, live)

    @precondition(lambda self: self.map.used)
    @rule(most=st.integers(1, 6))
    def move_the_topmost(self, most):
        holders, start, end = self.map.topmost(range(SEQUENCES), most)
        top = self.plain.cells[self.plain.highest() - 1]
        assert set(holders) == top[2]
        assert start <= top[0] < end <= start + most
        for seq in holders:
            self.plain.seq_rm(seq, start, end)
        assert self.plain.place([(holders[0], position, 0, "") for position in range(start, end)])
        for seq in holders[1:]:
            self.plain.seq_cp(holders[0], seq, start, end)
        self.map.move(holders, start, end)

    @invariant()
    def they_agree(self):
        live = [cell for cell in self.plain.cells if cell and any(self.is_live[seq] for seq in cell[2])]
        assert self.map.used == self.plain.used()
        assert self.map.highest == self.plain.highest()
        assert self.map.live == len(live)
        assert self.map.parked == self.plain.used() - len(live)
        assert self.map._head == self.plain.head
        for seq in range(SEQUENCES):
            held = [cell for cell in self.plain.cells if cell and seq in cell[2]]
            assert self.map.length(seq) == len(held)
            assert self.map.exclusive(seq) == sum(len(cell[2]) == 1 for cell in held)
            cells = [self.plain.cells[index][0] for index in self.map._held(seq)]
            assert cells == list(range(len(held))), "each position where llama.cpp has it"


Caches.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestCaches = Caches.TestCase
