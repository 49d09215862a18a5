"""Reads an answer while it arrives: the few moves that families' syntaxes are written in.

A family's syntax is a generator that calls these moves with ``yield from``; a bare ``yield`` inside them waits for more
text. So each syntax is written as if the whole answer were there. Guarantee: what a move does depends on the text
alone, never on how it was cut; a text that may still become a marker is held back until it cannot.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeVar

from plugsky.engine.prompting.families.json_scan import JsonScanner

T = TypeVar("T")
Steps = Generator[None, None, T]
Emit = Callable[[str], None]

MAX_SPACE: Final = 256
"""White space that may stand between the parts of a call."""


def nowhere(_text: str) -> None:
    """Takes text and drops it."""


class Reader:
    """The text of one answer, read from its start. :meth:`feed` and :meth:`end` are for whoever has the text."""

    def __init__(self) -> None:
        self._text = ""
        self._received = 0
        self._ended = False
        self._record: list[str] | None = None

    def feed(self, text: str) -> None:
        """More text has come."""
        self._text += text
        self._received += len(text)

    def end(self) -> None:
        """No more text will come."""
        self._ended = True

    # -- what may have to be given back ------------------------------------------------------------------------------

    def record(self, text: str = "") -> None:
        """From here on keep what is read, behind ``text``."""
        self._record = [text]

    def recorded(self) -> str:
        """What was read since :meth:`record`; ends the keeping."""
        kept, self._record = self._record, None
        return "".join(kept or ())

    # -- moves -------------------------------------------------------------------------------------------------------

    def until(self, markers: Sequence[str], emit: Emit) -> Steps[str]:
        """Give ``emit`` all text before the first of ``markers``, which is passed and returned; "" at the end.

        The first is the one that begins first; of those that begin at one place, the longest.
        """
        while True:
            text = self._text
            place, marker = _first(text, markers)
            begun = len(text) if self._ended else _begun(text, markers)
            if place < begun:
                emit(self._take(place))
                self._take(len(marker))
                return marker
            emit(self._take(begun))
            if self._ended:
                return ""
            yield from self._more()

    def starts(self, options: Sequence[str]) -> Steps[str]:
        """The longest of ``options`` that the text goes on with, which is passed; "" if it goes on with none."""
        while True:
            text = self._text
            if not self._ended and any(len(text) < len(option) and option.startswith(text) for option in options):
                yield from self._more()
                continue
            found = max((option for option in options if text.startswith(option)), key=len, default="")
            self._take(len(found))
            return found

    def ahead(self) -> Steps[str]:
        """The next character, not passed; "" at the end."""
        if not self._text:
            yield from self._more()
        return self._text[:1]

    def spaces(self) -> Steps[str]:
        """White space, passed: at most :data:`MAX_SPACE` characters."""
        passed = ""
        while len(passed) < MAX_SPACE and (yield from self.ahead()).isspace():
            body = self._text.lstrip()
            passed += self._take(min(len(self._text) - len(body), MAX_SPACE - len(passed)))
        return passed

    def word(self, ends: Sequence[str], limit: int) -> Steps[str | None]:
        """Text of at most ``limit`` characters, passed, before the first of ``ends``, which is not; else None."""
        while True:
            text = self._text
            place, _ = _first(text, ends)
            begun = len(text) if self._ended else _begun(text, ends)
            if place < begun and place <= limit:
                return self._take(place)
            if self._ended or min(place, begun) > limit:
                return None
            yield from self._more()

    def json(self, emit: Emit = nowhere) -> Steps[str | None]:
        """One JSON value, given to ``emit`` as it comes, then returned. None: it is none, or the text ends in it."""
        scanner = JsonScanner()
        parts = []
        while not scanner.done:
            part = self._take(scanner.feed(self._text))
            if part:
                parts.append(part)
                emit(part)
            if scanner.failed:
                return None
            if not scanner.done and not self._text and not (yield from self._more()) and not scanner.end():
                return None
        return "".join(parts)

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        if self._record is not None and taken:
            self._record.append(taken)
        return taken

    def _more(self) -> Steps[bool]:
        """Wait until more text has come. False when none will."""
        before = self._received
        while self._received == before and not self._ended:
            yield
        return self._received > before


def _first(text: str, markers: Sequence[str]) -> tuple[int, str]:
    """Where the first marker begins, and which it is: the end of ``text`` and "" if there is none."""
    best = (len(text), 0, "")
    for marker in markers:
        place = text.find(marker)
        if place >= 0:
            best = min(best, (place, -len(marker), marker))
    return best[0], best[2]


def _begun(text: str, markers: Sequence[str]) -> int:
    """Where the first marker begins that the end of ``text`` leaves unfinished; the end of ``text`` if none does."""
    longest = max(map(len, markers), default=1)
    for place in range(max(0, len(text) - longest + 1), len(text)):
        ending = text[place:]
        if any(len(ending) < len(marker) and marker.startswith(ending) for marker in markers):
            return place
    return len(text)
