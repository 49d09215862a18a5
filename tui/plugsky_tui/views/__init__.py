"""Views: pure functions from a HomeState to lines of cells that fit a box. They know neither Textual nor the socket.

A view given more rows than it needs gives fewer lines; given fewer, it keeps the most urgent and says how many more
there are.
"""

from collections.abc import Callable
from typing import NamedTuple

from plugsky_tui.cells import Line, Span, Tone, beside, fit, line_width
from plugsky_tui.home_state import HomeState


class Box(NamedTuple):
    """The room a view has, in cells."""

    width: int
    height: int


View = Callable[[HomeState, Box], list[Line]]


def heading(title: str, width: int, note: str = "") -> Line:
    """The bar above a panel: its title, and a note at the right end."""
    return filled(beside((Span(f" {title}", "title"),), (Span(f"{note} ", "head"),), width, "head"), width, "head")


def filled(line: Line, width: int, tone: Tone) -> Line:
    """``line`` cut or stretched to exactly ``width`` cells, the rest in ``tone``."""
    kept = fit(line, width)
    return (*kept, Span(" " * (width - line_width(kept)), tone))


def at_most(groups: list[list[Line]], height: int, unseen: int = 0) -> list[Line]:
    """The first groups of lines that fit ``height`` rows; where some do not, the last row says how many more there are.

    A group is never torn. ``unseen`` groups follow that the caller did not even draw.
    """
    lines = [line for group in groups for line in group]
    if not unseen and len(lines) <= height:
        return lines
    kept: list[Line] = []
    shown = 0
    for group in groups:
        if len(kept) + len(group) > height - 1:
            break
        kept += group
        shown += 1
    return [*kept, (Span(f" + {len(groups) - shown + unseen} more", "faint"),)][: max(0, height)]
