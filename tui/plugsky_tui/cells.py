"""Lines of cells: text with a tone, measured, cut and compared by the terminal cell. Pure.

- A :data:`Line` is a tuple of spans; a span is text and the name of its tone. What a tone looks like is decided by the
  style sheets; every tone that means something comes with a word or a mark, so that no meaning hangs on colour alone.
- Text is measured in cells: a wide character takes two, a combining mark none (UAX #11, by Rich's table).
- :func:`clean` makes foreign text safe to paint: no character of it can move the cursor, start an escape sequence or
  turn the direction of the line.
- :func:`to_ascii` keeps the width of every text, so a layout is the same in both charsets.
"""

import unicodedata
from typing import Final, Literal, NamedTuple

from rich.cells import cell_len, set_cell_size

Tone = Literal[
    "plain",
    "faint",
    "strong",
    "accent",
    "good",
    "warn",
    "bad",
    "fill",
    "empty",
    "trend",
    "title",
    "head",
    "crown",
    "alarm",
]


class Span(NamedTuple):
    """A run of text in one tone."""

    text: str
    tone: Tone = "plain"


Line = tuple[Span, ...]

ELLIPSIS: Final = "…"
MAX_TEXT: Final = 300
"""No text of the site is drawn longer than this many characters."""

_ASCII: Final = str.maketrans(
    {
        "…": "~",
        "—": "-",
        "·": "-",
        "→": ">",
        "●": "*",
        "◐": "~",
        "○": "-",
        "✓": "+",
        "✗": "x",
        "▲": "!",
        "━": "#",
        "─": ".",
        "▁": "_",
        "▂": ".",
        "▃": ":",
        "▄": "-",
        "▅": "=",
        "▆": "+",
        "▇": "*",
        "█": "#",
    }
)


def clean(text: str) -> str:
    """``text`` in composed form with every control, format, private and unassigned character shown as ``�``."""
    if text.isascii() and text.isprintable():
        return text[:MAX_TEXT]
    composed = unicodedata.normalize("NFC", text[:MAX_TEXT])
    return "".join("�" if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" else char for char in composed)


def to_ascii(text: str) -> str:
    """``text`` in bytes below 128 and of the same width: our glyphs by their stand-ins, anything else as ``?``."""
    if text.isascii():
        return text
    return "".join(char if char < "\x80" else "?" * cell_len(char) for char in text.translate(_ASCII))


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells; what was cut off is marked by an ellipsis."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + ELLIPSIS if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """``text`` in exactly ``width`` cells, clipped or filled with spaces; ``right`` aligns it to the right."""
    clipped = clip(text, width)
    spaces = " " * (width - cell_len(clipped))
    return spaces + clipped if right else clipped + spaces


def line_width(line: Line) -> int:
    """The cells ``line`` takes."""
    return sum(cell_len(span.text) for span in line)


def fit(line: Line, width: int) -> Line:
    """``line`` in at most ``width`` cells; the span that does not fit is clipped and those after it are dropped."""
    fitted: list[Span] = []
    left = width
    for span in line:
        size = cell_len(span.text)
        if size > left:
            fitted.append(Span(clip(span.text, left), span.tone))
            break
        fitted.append(span)
        left -= size
    return tuple(span for span in fitted if span.text)


def mark(glyph: str, tone: Tone, indent: int = 1) -> Line:
    """A mark in front of a text, with a space on either side that does not take its tone."""
    return (Span(" " * indent), Span(glyph, tone), Span(" "))


def wrap(prefix: Line, text: str, width: int, tone: Tone = "plain") -> list[Line]:
    """``text`` behind ``prefix`` in as many lines as it takes, broken at spaces, each under the first one's text."""
    indent = line_width(prefix)
    room = max(1, width - indent)
    rows: list[str] = []
    for word in text.split(" "):
        joined = f"{rows[-1]} {word}" if rows else word
        if rows and cell_len(joined) <= room:
            rows[-1] = joined
        else:
            rows.append(word)
    margin: Line = (Span(" " * indent),)
    return [(*(margin if at else prefix), Span(clip(row, room), tone)) for at, row in enumerate(rows)]


def beside(left: Line, right: Line, width: int, filler: Tone = "plain") -> Line:
    """``left`` and ``right`` at the two ends of ``width`` cells; where both do not fit, ``left`` is clipped."""
    kept = fit(left, width - line_width(right) - 2)
    return (*kept, Span(" " * (width - line_width(kept) - line_width(right)), filler), *right)


def plain_text(line: Line) -> str:
    """The text of ``line`` without its tones."""
    return "".join(span.text for span in line)


def changed_cells(old: Line, new: Line) -> tuple[int, int] | None:
    """The first cell and the end of the cells that differ, or None; a line with a wide character counts as whole."""
    before, after = _toned(old), _toned(new)
    if before == after:
        return None
    width = max(line_width(old), line_width(new))
    if max(len(before), len(after)) != width:
        return 0, width
    short = min(len(before), len(after))
    start = next((at for at in range(short) if before[at] != after[at]), short)
    if len(before) != len(after):
        return start, width
    end = next(at for at in range(width, start, -1) if before[at - 1] != after[at - 1])
    return start, end


def _toned(line: Line) -> list[tuple[str, Tone]]:
    return [(char, span.tone) for span in line for char in span.text]
