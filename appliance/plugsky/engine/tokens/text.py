"""From token pieces to text: whole characters only, and stop strings found wherever tokens happen to cut them.

Guarantees, in order: (1) what has been given out is never taken back; (2) a character is given out only when all its
UTF-8 bytes are there, and bytes that are no UTF-8 become U+FFFD as Unicode 16.0, section 3.9 recommends; (3) no part of
a stop string is given out, however its text is spread over pieces; (4) the result depends on the bytes alone, never on
how they were cut: the stop string that is complete first counts. A character left unfinished
at the end is dropped: it is not text.
"""

import codecs
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_NONE: Final[Mapping[int, str]] = MappingProxyType({})


class TextStream:
    """The text of one sequence. Feed it pieces until :attr:`stop` is set or the end comes, then :meth:`finish` it.

    ``shown`` are tokens that have a text here though their piece is empty: control tokens that mean something to
    whoever reads the answer.
    """

    def __init__(self, stops: tuple[str, ...] = (), shown: Mapping[int, str] = _NONE) -> None:
        self._shown = {token: text.encode() for token, text in shown.items()}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._firsts = frozenset(stop[0] for stop in stops)
        self._held = ""
        self.stop = ""
        """The stop string that was met, if one was: the text before it has been given out and nothing follows."""

    def feed(self, piece: bytes, token: int = -1) -> str:
        """The text that ``piece`` settles, perhaps empty. It is the piece of ``token``."""
        if self.stop:
            return ""
        piece = self._shown.get(token, piece)
        text = self._held + self._decoder.decode(piece)
        if not self._stops:
            return text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stop = min(found)
            self._held = ""
            return text[:at]
        keep = self._begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text held back because a stop string might have begun in it."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """The length of the longest end of ``text`` that begins a stop string."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self._firsts and any(stop.startswith(text[at:]) for stop in self._stops):
                return len(text) - at
        return 0
