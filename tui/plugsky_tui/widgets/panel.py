"""A widget that paints the lines of a view, and repaints only the cells that changed.

Guarantees: no cell is repainted that did not change, so a quiet site costs a slow line nothing; in the ASCII charset no
byte above 127 leaves it. The tones of :mod:`plugsky_tui.cells` are component classes, so the style sheets decide what
each looks like.
"""

from typing import ClassVar, get_args

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from plugsky_tui.cells import Line, Tone, changed_cells, line_width, to_ascii
from plugsky_tui.home_state import HomeState
from plugsky_tui.terminal import Charset
from plugsky_tui.views import Box, View

UNBOUNDED = 1000
"""Rows offered to a view to learn how many it would like."""


class Panel(Widget):
    """Paints ``view(state, box)``. Its natural height is the number of lines the view gives when offered plenty."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"panel--{tone}" for tone in get_args(Tone)}
    ALLOW_SELECT = False

    def __init__(self, view: View, charset: Charset, *, id: str) -> None:  # noqa: A002 - Textual's own name for it
        super().__init__(id=id)
        self._view = view
        self._charset = charset
        self._state = HomeState()
        self._lines: list[Line] = []

    def show(self, state: HomeState) -> None:
        """Paints what ``state`` changes."""
        if not self.display:
            self._state, self._lines = state, []
            return
        before, self._state = self._state, state
        if self._is_auto and self._natural_height(before) != self._natural_height(state):
            self.refresh(layout=True)
        self._paint()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's call
        return len(self._view(self._state, Box(width, UNBOUNDED)))

    def on_resize(self) -> None:
        self._redraw()

    def on_show(self) -> None:
        self._redraw()

    def render_line(self, y: int) -> Strip:
        line = self._lines[y] if y < len(self._lines) else ()
        segments = [Segment(span.text, self.get_component_rich_style(f"panel--{span.tone}")) for span in line]
        return Strip(segments, line_width(line)).adjust_cell_length(self.size.width, self.rich_style)

    def _redraw(self) -> None:
        self._lines = self._draw()
        self.refresh()

    @property
    def _is_auto(self) -> bool:
        return self.styles.height is not None and self.styles.height.is_auto

    def _natural_height(self, state: HomeState) -> int:
        return len(self._view(state, Box(self.size.width, UNBOUNDED)))

    def _draw(self) -> list[Line]:
        if not self.size:
            return []
        lines = self._view(self._state, Box(self.size.width, self.size.height))
        if self._charset == "ascii":
            return [tuple(span._replace(text=to_ascii(span.text)) for span in line) for line in lines]
        return lines

    def _paint(self) -> None:
        before, self._lines = self._lines, self._draw()
        for y in range(max(len(before), len(self._lines))):
            old = before[y] if y < len(before) else ()
            new = self._lines[y] if y < len(self._lines) else ()
            changed = changed_cells(old, new)
            if changed is not None:
                start, end = changed
                self.refresh(Region(start, y, end - start, 1))
