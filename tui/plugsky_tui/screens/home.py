"""Home: the site at a glance. Isolation and duties, traffic and host, models and requests in flight."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer

from plugsky_tui.home_state import HomeState
from plugsky_tui.terminal import Charset
from plugsky_tui.views import fallback, load, masthead, posture, work
from plugsky_tui.widgets.panel import Panel


class HomeScreen(Screen[None]):
    """Draws the HomeState it is shown; it asks the site for nothing itself."""

    ABOUT: ClassVar[str] = "Home: the site at a glance. The same in plain lines: plugsky doctor, plugsky usage report."
    LEGEND: ClassVar[str] = "● ready   ◐ changing   ○ not loaded\n✓ well    ▲ take care  ✗ trouble"

    def __init__(self, charset: Charset) -> None:
        super().__init__(classes="-waiting")
        self._charset: Charset = charset

    def compose(self) -> ComposeResult:
        yield Panel(masthead.masthead, self._charset, id="masthead")
        yield Panel(fallback.waiting, self._charset, id="waiting")
        yield Panel(fallback.compact, self._charset, id="compact")
        with Horizontal(classes="pair live"):
            yield Panel(posture.isolation, self._charset, id="isolation")
            yield Panel(posture.duties, self._charset, id="duties")
        with Horizontal(classes="pair live"):
            yield Panel(load.traffic, self._charset, id="traffic")
            yield Panel(load.host, self._charset, id="host")
        yield Panel(work.work, self._charset, id="work").add_class("live")
        yield Footer(show_command_palette=False)

    def show(self, state: HomeState) -> None:
        """Draws ``state``."""
        self.set_class(state.home is None, "-waiting")
        self.set_class(state.lost is not None, "-stale")
        for panel in self.query(Panel):
            panel.show(state)
