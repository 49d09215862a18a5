"""Tables of cells: columns that grow, and that leave one by one where there is no room for them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plugsky_tui.cells import Line, Span, Tone, line_width, pad

GAP: Final = 2
"""Cells between two columns."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, its least width in cells, its alignment, whether it takes spare cells, and its rank.

    Where the columns do not fit together, the one with the highest rank leaves first; rank 0 never leaves.
    """

    title: str
    width: int
    right: bool = False
    grows: bool = False
    rank: int = 0


Cell = Span | Line
"""A cell is one span, which is clipped and aligned, or a line made to the width of its column (a gauge)."""


def widths(columns: Sequence[Column], room: int) -> tuple[int, ...]:
    """The width of each column within ``room`` cells, 0 for those that left."""
    kept = [column.width for column in columns]

    def used() -> int:
        shown = [width for width in kept if width]
        return sum(shown) + GAP * (len(shown) - 1)

    for at in sorted(range(len(columns)), key=lambda at: -columns[at].rank):
        if used() <= room or columns[at].rank == 0:
            break
        kept[at] = 0
    growing = [at for at, column in enumerate(columns) if column.grows and kept[at]]
    spare = room - used()
    for nth, at in enumerate(growing):
        kept[at] = max(1, kept[at] + spare // len(growing) + (nth < spare % len(growing)))
    return tuple(kept)


def headings(columns: Sequence[Column], sizes: Sequence[int]) -> Line:
    """The heading bar of the table; the first column's heading is the table's title."""
    cells = [Span(column.title, "head" if at else "title") for at, column in enumerate(columns)]
    return _row(columns, sizes, cells, "head")


def row(columns: Sequence[Column], sizes: Sequence[int], cells: Sequence[Cell]) -> Line:
    """One row, its cells in the order of ``columns``."""
    return _row(columns, sizes, cells, "plain")


def _row(columns: Sequence[Column], sizes: Sequence[int], cells: Sequence[Cell], filler: Tone) -> Line:
    spans: list[Span] = [Span(" ", filler)]
    for column, size, cell in zip(columns, sizes, cells, strict=True):
        if not size:
            continue
        if len(spans) > 1:
            spans.append(Span(" " * GAP, filler))
        if isinstance(cell, Span):
            spans.append(Span(pad(cell.text, size, right=column.right), cell.tone))
        else:
            spans += [*cell, Span(" " * (size - line_width(cell)), filler)]
    return (*spans, Span(" ", filler))
