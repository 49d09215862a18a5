"""What a grammar admits next: the set of ways in which the answer so far can be read, moved on character by character.

Pure. A way is a stack of places in the rules; stacks share their lower parts, and a set of stacks is one small number
that a table maps, with a character, to the next. The table is filled as it is needed, so text that loops (the inside of
a string) costs one look-up per character.

Guarantees: (1) memory and time per character are bounded: a grammar that can be read in more than
:data:`MAX_WAYS` ways at once raises :class:`TooAmbiguousError`, where llama.cpp's grammars would double them with each
character; (2) the answer depends on the bytes alone, not on how tokens cut them: a character may be split, and a split
one is admitted only if it can still become one the grammar admits.
"""

import codecs
from typing import Final

import numpy as np
import numpy.typing as npt

from plugsky.engine.grammars.grammar import Chars, Grammar, Ref, Repeat

MAX_WAYS: Final = 1 << 12
"""Ways to read one answer that are followed at the same time."""
MAX_WORK: Final = 1 << 14
"""Places of a grammar visited for one character."""
MAX_EFFORT: Final = 1 << 18
"""Places visited for all that is asked between two tokens of the answer: a fraction of a second."""
MAX_TABLE: Final = 1 << 14
"""Sets, stacks or steps remembered beside twice those of the present; beyond, all are forgotten but the present."""

DEAD: Final = -1
_DONE: Final = 0
_COUNT: Final = 1 << 20
"""A place is an index into the items plus this times the rounds of its repetition."""

First = npt.NDArray[np.bool_]


class TooAmbiguousError(Exception):
    """The answer can be read in more ways than are followed."""


class Program:
    """The rules of a grammar, flat: items in one list with None at the end of each alternative. Shared by requests."""

    def __init__(self, grammar: Grammar) -> None:
        self.items: list[Chars | Ref | Repeat | None] = [None]
        self.starts: list[list[int]] = []
        for alternatives in grammar.rules:
            starts = []
            for items in alternatives:
                starts.append(len(self.items))
                self.items += [*items, None]
            self.starts.append(starts)
        self.root = grammar.root


class Matcher:
    """The place of one answer in its grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self._program = Program(grammar)
        self._effort = 0
        self._forget()
        self._state = self._begin()
        self._pending = b""

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return not self._pending and _DONE in self._sets[self._state]

    @property
    def exhausted(self) -> bool:
        """Whether the answer can only end here."""
        return not self._pending and self._sets[self._state] == (_DONE,)

    def admits(self, piece: bytes) -> bool:
        """Whether the grammar admits ``piece`` next. Raises :class:`TooAmbiguousError`."""
        return self._after(piece)[0] != DEAD

    def wrong_start(self, piece: bytes) -> bytes:
        """The shortest start of a ``piece`` that is not admitted with which nothing else is admitted either."""
        for end in range(1, len(piece)):
            if not self.admits(piece[:end]):
                return piece[:end]
        return piece

    def accept(self, piece: bytes) -> bool:
        """Move on by ``piece``; False, and nothing moved, where the grammar does not admit it."""
        if max(len(self._places), len(self._sets), len(self._steps)) > self._room:
            self._compact()
        self._effort = 0
        state, pending = self._after(piece)
        if state == DEAD:
            return False
        self._state, self._pending = state, pending
        return True

    def first_bytes(self) -> First:
        """For each of the 256 bytes whether a piece that begins with it may be admitted; True for some too many."""
        if self._pending:
            found = np.zeros(256, dtype=np.bool_)
            found[0x80:0xC0] = True
            return found
        known = self._firsts.get(self._state)
        if known is None:
            known = self._firsts[self._state] = np.zeros(256, dtype=np.bool_)
            for node in self._sets[self._state]:
                for low, high in self._ranges(node):
                    known[
                        chr(low).encode("utf-8", "surrogatepass")[0] : chr(high).encode("utf-8", "surrogatepass")[0] + 1
                    ] = True
        return known

    def _after(self, piece: bytes) -> tuple[int, bytes]:
        data = self._pending + piece
        try:
            text, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            return DEAD, b""
        state = self._state
        for char in text:
            state = self._step(state, ord(char))
            if state == DEAD:
                return DEAD, b""
        pending = data[used:]
        return (state, pending) if not pending or self._may_become(state, pending) else (DEAD, b"")

    def _may_become(self, state: int, pending: bytes) -> bool:
        """Whether the beginning of a character can become one that is admitted."""
        low, high = _span(pending)
        return any(first <= high and low <= last for node in self._sets[state] for first, last in self._ranges(node))

    def _ranges(self, node: int) -> tuple[tuple[int, int], ...]:
        item = self._program.items[self._places[node] % _COUNT] if node != _DONE else None
        return item.ranges if isinstance(item, Chars) else ()

    # -- sets of stacks ----------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._places: list[int] = [0]  # node 0 is the empty stack
        self._below: list[int] = [0]
        self._nodes: dict[tuple[int, int], int] = {}
        self._sets: list[tuple[int, ...]] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._firsts: dict[int, First] = {}
        self._room = MAX_TABLE

    def _compact(self) -> None:
        """Keep the stacks of the present set only."""
        stacks = []
        for top in self._sets[self._state]:
            stack, node = [], top
            while node != _DONE:
                stack.append(self._places[node])
                node = self._below[node]
            stacks.append(stack)
        self._forget()
        tops = []
        for stack in stacks:
            node = _DONE
            for place in reversed(stack):
                node = self._node(place, node)
            tops.append(node)
        self._state = self._number(tuple(sorted(tops)))
        self._room = MAX_TABLE + 2 * len(self._places)

    def _begin(self) -> int:
        return self._settle([self._push(start, _DONE) for start in self._program.starts[self._program.root]])

    def _step(self, state: int, code: int) -> int:
        known = self._steps.get((state, code))
        if known is None:
            moved = [
                self._push(self._places[node] + 1, self._below[node])
                for node in self._sets[state]
                if any(low <= code <= high for low, high in self._ranges(node))
            ]
            self._effort += len(self._sets[state])
            known = self._steps[state, code] = self._settle(moved) if moved else DEAD
        return known

    def _push(self, place: int, below: int) -> int:
        """The stack with ``place`` on ``below``; nothing is put where an alternative ends."""
        return below if self._program.items[place % _COUNT] is None else self._node(place, below)

    def _node(self, place: int, below: int) -> int:
        node = self._nodes.get((place, below))
        if node is None:
            node = self._nodes[place, below] = len(self._places)
            self._places.append(place)
            self._below.append(below)
            if node > self._room + 16 * MAX_TABLE:
                raise TooAmbiguousError
        return node

    def _settle(self, work: list[int]) -> int:
        """The set of stacks that have a character on top, or are empty, into which these unfold."""
        seen: set[int] = set()
        settled: list[int] = []
        while work:
            node = work.pop()
            if node in seen:
                continue
            seen.add(node)
            item = None if node == _DONE else self._program.items[self._places[node] % _COUNT]
            match item:
                case None | Chars():
                    settled.append(node)
                case Ref(rule):
                    after = self._push(self._places[node] + 1, self._below[node])
                    work += [self._push(start, after) for start in self._program.starts[rule]]
                case Repeat():
                    work += self._repeat(item, self._places[node], self._below[node])
            if len(seen) > MAX_WORK or len(settled) > MAX_WAYS:
                raise TooAmbiguousError
        self._effort += len(seen)
        if self._effort > MAX_EFFORT:
            raise TooAmbiguousError
        return self._number(tuple(sorted(settled)))

    def _repeat(self, item: Repeat, place: int, below: int) -> list[int]:
        rounds, at = divmod(place, _COUNT)
        after = self._push(at + 1, below)
        found = [after] if rounds >= item.least else []
        if item.most is None:
            again = self._node(at + min(rounds + 1, item.least) * _COUNT, below)
        elif rounds + 1 < item.most:
            again = self._node(place + _COUNT, below)
        else:
            again = after
        return found + [self._push(start, again) for start in self._program.starts[item.rule]]

    def _number(self, nodes: tuple[int, ...]) -> int:
        number = self._numbers.get(nodes)
        if number is None:
            number = self._numbers[nodes] = len(self._sets)
            self._sets.append(nodes)
        return number


def _span(pending: bytes) -> tuple[int, int]:
    """The least and the greatest code point whose UTF-8 form begins with ``pending``."""
    lead = pending[0]
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    value = lead & (0x7F >> length)
    for byte in pending[1:]:
        value = value << 6 | byte & 0x3F
    free = 6 * (length - len(pending))
    low, high = value << free, (value + 1 << free) - 1
    return max(low, (0x80, 0x800, 0x10000)[length - 2]), min(high, 0x10FFFF)
