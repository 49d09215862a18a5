"""Which sequences of the cache begin like a newcomer: a radix tree over the tokens of running and parked sequences.

Guarantees: (1) a match is exact: every token of a claimed common beginning was compared, by numpy, never by hash;
(2) a sequence is found by all the tokens it is known to have, also those not computed yet, so that a newcomer can wait
for a prefill under way; (3) a sequence that grows costs the tree nothing: a leaf's label is open and reads the
sequence's own tokens; (4) trees are kept by root, and nothing is ever found from another root.

A node stands for the tokens from its parent's end to its own; it keeps no copy but reads them from any sequence below
it. A sequence hangs at the node where it leaves all others: in ``children`` under its next token, or, while it has no
next token, in ``ending``.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

_ROOM: Final = 64


class TokenBuffer:
    """Tokens that grow at the end. Slices handed out stay valid."""

    __slots__ = ("_data", "length")

    def __init__(self, tokens: Sequence[int], room: int = _ROOM) -> None:
        self.length = len(tokens)
        self._data: Tokens = np.empty(self.length + room, dtype=np.int32)
        self._data[: self.length] = tokens

    def append(self, token: int) -> None:
        """One token more."""
        if self.length == len(self._data):
            grown = np.empty(2 * self.length, dtype=np.int32)
            grown[: self.length] = self._data
            self._data = grown
        self._data[self.length] = token
        self.length += 1

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(length, self.length)

    def last(self) -> int:
        """The last token."""
        return int(self._data[self.length - 1])

    def at(self, index: int) -> int:
        """The token at ``index``."""
        return int(self._data[index])

    def array(self, start: int, end: int) -> Tokens:
        """The tokens in ``[start, end)``, not copied."""
        return self._data[start : min(end, self.length)]

    def view(self, start: int, end: int) -> Sequence[int]:
        """The same as a sequence of numbers."""
        return self._data[start : min(end, self.length)].data


@dataclass(slots=True, eq=False)
class Resident:
    """A sequence in the cache: its tokens, and how many of them have cells."""

    seq: int
    root: Hashable
    tokens: TokenBuffer
    computed: int = 0
    running: bool = True
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Alike:
    """``resident`` has the first ``length`` tokens of the newcomer, computed or not."""

    resident: Resident
    length: int


class _Node:
    __slots__ = ("children", "end", "ending", "parent")

    def __init__(self, parent: "_Node | None", end: int) -> None:
        self.parent = parent
        self.end = end
        self.children: dict[int, _Node | Resident] = {}
        self.ending: list[Resident] = []

    def residents(self, without: "_Node | Resident | None" = None) -> Iterator[Resident]:
        """Every sequence at or below this node, but not those below one child."""
        yield from self.ending
        for child in self.children.values():
            if child is not without:
                yield from _below(child)


class PrefixTree:
    """All sequences of one cache, by root."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, _Node] = {}
        self._home: dict[Resident, _Node] = {}

    def __len__(self) -> int:
        return len(self._home)

    def add(self, resident: Resident) -> None:
        """Hang a sequence at its place."""
        top = self._roots.setdefault(resident.root, _Node(None, 0))
        self._hang(top, resident)

    def remove(self, resident: Resident) -> None:
        """Take a sequence out; nodes that hold nothing apart any more are dissolved."""
        node = self._home.pop(resident)
        if resident in node.ending:
            node.ending.remove(resident)
        else:
            del node.children[resident.tokens.at(node.end)]
        self._dissolve(node, resident)

    def alike(self, root: Hashable, tokens: Tokens) -> Iterator[Alike]:
        """Sequences that begin like ``tokens``, the longest common beginning first; change nothing while iterating."""
        node = self._roots.get(root)
        if node is None:
            return
        self._settle(node)
        way: list[tuple[_Node, _Node | Resident | None]] = []
        while True:
            taken = node.children.get(int(tokens[node.end])) if node.end < len(tokens) else None
            if taken is not None:
                taken = self._settle(taken)
            way.append((node, taken))
            if taken is None:
                break
            length = self._common(taken, node.end, tokens)
            if isinstance(taken, Resident) or length < taken.end:
                for resident in _below(taken):
                    yield Alike(resident, length)
                break
            node = taken
        while way:
            node, taken = way.pop()
            if node.end:
                for resident in node.residents(without=taken):
                    yield Alike(resident, node.end)

    def _settle(self, child: "_Node | Resident") -> "_Node | Resident":
        """Move on sequences that ended here and have grown since; what stands here then, as all may go one way."""
        if isinstance(child, Resident):
            return child
        grown = [resident for resident in child.ending if resident.tokens.length > child.end]
        for resident in grown:
            child.ending.remove(resident)
            self._hang(child, resident)
        if not grown or child.parent is None or child.ending or len(child.children) > 1:
            return child
        (only,) = child.children.values()
        self._dissolve(child, grown[0])
        return self._settle(only)

    def _hang(self, node: _Node, resident: Resident) -> None:
        tokens = resident.tokens.array(0, resident.tokens.length)
        while True:
            if len(tokens) == node.end:
                node.ending.append(resident)
                break
            key = int(tokens[node.end])
            child = node.children.get(key)
            if child is None:
                node.children[key] = resident
                break
            length = self._common(child, node.end, tokens)
            if isinstance(child, _Node) and length == child.end:
                node = child
                continue
            node = self._split(node, key, child, length)
        self._home[resident] = node

    def _split(self, parent: _Node, key: int, child: "_Node | Resident", end: int) -> _Node:
        node = _Node(parent, end)
        parent.children[key] = node
        if isinstance(child, _Node):
            child.parent = node
            node.children[next(iter(_below(child))).tokens.at(end)] = child
        else:
            self._home[child] = node
            if child.tokens.length == end:
                node.ending.append(child)
            else:
                node.children[child.tokens.at(end)] = child
        return node

    def _common(self, child: "_Node | Resident", start: int, tokens: Tokens) -> int:
        """How far ``tokens`` go along with ``child``, of which they have the first ``start``."""
        sample = next(iter(_below(child)))
        end = child.end if isinstance(child, _Node) else sample.tokens.length
        theirs = sample.tokens.array(start, end)
        mine = tokens[start : start + len(theirs)]
        differ = theirs[: len(mine)] != mine
        first = int(differ.argmax()) if len(differ) else 0
        return start + (first if len(differ) and differ[first] else len(mine))

    def _dissolve(self, node: _Node, leaving: Resident) -> None:
        parent = node.parent
        if parent is None:
            if not node.children and not node.ending:
                del self._roots[leaving.root]
            return
        left = [*node.ending, *node.children.values()]
        if len(left) > 1:
            return
        key = leaving.tokens.at(parent.end)
        if not left:
            del parent.children[key]
            self._dissolve(parent, leaving)
            return
        parent.children[key] = left[0]
        if isinstance(left[0], _Node):
            left[0].parent = parent
        else:
            self._home[left[0]] = parent


def _below(child: "_Node | Resident") -> Iterator[Resident]:
    if isinstance(child, Resident):
        yield child
    else:
        yield from child.residents()
