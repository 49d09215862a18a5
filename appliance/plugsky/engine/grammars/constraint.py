"""A grammar's say over the tokens of one answer, from its first token or from a text that triggers it.

Pure: tokens are their bytes (:class:`Pieces`), the grammar is a :class:`~plugsky.engine.grammars.matcher.Matcher`. No
control token is ever admitted by a grammar, whatever its name spells, except one whose name is a trigger or part of the
answer's text: otherwise a string of an answer could close its own turn. The end of a generation is admitted where the
grammar is complete.

Nothing of it is llama.cpp's: its grammars end the process when they meet a token that they do not admit, so does a
lazy one whose trigger is followed by wrong text in the same token, and they take time and memory without bound.
"""

import bisect
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from plugsky.engine.errors import bad_request
from plugsky.engine.grammars import gbnf
from plugsky.engine.grammars.grammar import GrammarSpec, refused
from plugsky.engine.grammars.matcher import Matcher, TooAmbiguousError

Flags = npt.NDArray[np.bool_]


class Pieces:
    """The bytes of every token of a vocabulary: made once for a model, shared by its requests."""

    def __init__(self, pieces: Sequence[bytes], ends: Callable[[int], bool], markers: Mapping[int, str]) -> None:
        self.table = tuple(pieces)
        self.ends: Flags = np.fromiter(map(ends, range(len(pieces))), dtype=np.bool_, count=len(pieces))
        self.first = np.fromiter((piece[0] if piece else 0 for piece in pieces), dtype=np.uint8, count=len(pieces))
        self.plain: Flags = np.fromiter(map(bool, pieces), dtype=np.bool_, count=len(pieces)) & ~self.ends
        self.names = {text: token for token, text in markers.items()}
        self._order = np.array(sorted(range(len(pieces)), key=self.table.__getitem__), dtype=np.int32)
        self._sorted = [self.table[token] for token in self._order]

    def starting(self, start: bytes) -> npt.NDArray[np.int32]:
        """The tokens whose bytes begin with ``start``, which is not empty."""
        first = bisect.bisect_left(self._sorted, start)
        last = bisect.bisect_right(self._sorted, start, key=lambda piece: piece[: len(start)])
        return self._order[first:last]


class Constraint:
    """One answer under one grammar. Raises ``schema_refused`` from any method when it can be read in too many ways."""

    def __init__(self, spec: GrammarSpec, pieces: Pieces) -> None:
        """Raises ``schema_refused`` for a grammar that :func:`plugsky.engine.grammars.gbnf.read` refuses."""
        self._pieces = pieces
        self._triggers = tuple(trigger.encode() for trigger in spec.triggers)
        self._waiting = bool(spec.triggers)
        self._tail = b""
        """The end of the answer in which a trigger may have begun."""
        self._kept = max(map(len, self._triggers), default=1) - 1
        named = (*spec.triggers, *spec.shown)
        self._named = {pieces.names[text]: text.encode() for text in named if text in pieces.names}
        with _bounded():
            self._matcher = Matcher(gbnf.read(spec.text))

    @property
    def exhausted(self) -> bool:
        """Whether the answer can only end here."""
        return not self._waiting and self._matcher.exhausted

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next."""
        piece = self._piece(token)
        if self._waiting:
            triggered = self._triggered(piece)
            return triggered is None or self._admits(triggered)
        if self._pieces.ends[token]:
            return self._matcher.complete
        return bool(piece) and self._admits(piece)

    def accept(self, token: int) -> None:
        """Move on by ``token``. Raises ``bad_request`` where it may not come next."""
        if not self.allows(token):
            raise bad_request("these tokens do not follow the grammar", "resume_tokens")
        piece = self._piece(token)
        if self._waiting:
            triggered = self._triggered(piece)
            if triggered is None:
                self._tail = (self._tail + piece)[-self._kept :] if self._kept else b""
                return
            self._waiting, piece = False, triggered
        elif self._pieces.ends[token]:
            return
        with _bounded():
            self._matcher.accept(piece)

    def possible(self) -> Flags:
        """For each token whether it might come next; :meth:`allows` decides."""
        if self._waiting:
            return np.ones(len(self._pieces.table), dtype=np.bool_)
        first = self._matcher.first_bytes()
        found = first[self._pieces.first] & self._pieces.plain
        for token, name in self._named.items():
            found[token] = first[name[0]]
        return found | self._pieces.ends if self._matcher.complete else found

    def rule_out(self, token: int, possible: Flags) -> None:
        """Take ``token``, which may not come next, out of ``possible``, and all that begin as wrongly as it does."""
        possible[token] = False
        piece = self._piece(token)
        if piece and not self._waiting and not self._pieces.ends[token]:
            with _bounded():
                possible[self._pieces.starting(self._matcher.wrong_start(piece))] = False

    def _piece(self, token: int) -> bytes:
        return self._named.get(token) or self._pieces.table[token]

    def _triggered(self, piece: bytes) -> bytes | None:
        """The text from the first trigger on that ``piece`` completes."""
        text = self._tail + piece
        found = [(at + len(trigger), at) for trigger in self._triggers if (at := text.find(trigger)) >= 0]
        return text[min(found)[1] :] if found else None

    def _admits(self, text: bytes) -> bool:
        with _bounded():
            return self._matcher.admits(text)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    try:
        yield
    except TooAmbiguousError as error:
        raise refused("the grammar lets the answer so far be read in too many ways") from error
