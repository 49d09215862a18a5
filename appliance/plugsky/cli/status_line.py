"""The one line of a terminal on which work shows itself.

It is rewritten in place and never wider than the terminal, which is asked for its width each time: a line that wraps
cannot be rewritten and scrolls instead. The cursor stays on it, so whoever prints something else ends it first.
"""

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Final

from plugsky_bundles.errors import printable

WIDTH: Final = 80
"""Columns, where the terminal does not say."""
_LEAST: Final = 8
_ERASED: Final = "\r\x1b[2K"


class StatusLine:
    """What stands on the line of this process's stderr."""

    def __init__(self) -> None:
        self._open = False

    def show(self, parts: Sequence[str]) -> None:
        """Put as many of these parts there as fit, instead of what stood there."""
        sys.stderr.write(f"{_ERASED}  {fitted(parts, _columns() - 3)}")
        sys.stderr.flush()
        self._open = True

    def end(self) -> None:
        """Go on to the next line, if there is anything on this one."""
        if self._open:
            self._open = False
            sys.stderr.write("\n")
            sys.stderr.flush()


def fitted(parts: Sequence[str], columns: int) -> str:
    """The parts, two spaces apart, without those that do not fit; the last one is cut where at least a word of it fits.

    A part that a terminal would obey or misdraw is escaped.
    """
    line = ""
    for number, part in enumerate(map(printable, parts)):
        joined = f"{line}  {part}" if number else part
        if not number or _cells(joined) <= columns:
            line = joined
        elif number == len(parts) - 1 and columns - _cells(line) >= _LEAST + 2:
            line = _cut(joined, columns)
    return _cut(line, columns)


def _cut(text: str, columns: int) -> str:
    if _cells(text) <= columns:
        return text
    while text and _cells(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def _cells(text: str) -> int:
    """How many columns a terminal needs for it (Unicode Standard Annex 11: wide and full-width characters need two)."""
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.category(c) in ("Mn", "Me") else 1
        for c in text
    )


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH
    except OSError:
        return WIDTH
