"""The console's application: keys, theme, and the one feed of news that its screens draw.

It holds an Admin and nothing else. Its keys are the same on every screen and need neither a mouse nor a chord.
"""

import asyncio
import signal
from contextlib import aclosing
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from plugsky.admin.api import Admin, Home
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_tui.feed import Lost, follow
from plugsky_tui.home_state import HomeState
from plugsky_tui.screens.help import HelpScreen
from plugsky_tui.screens.home import HomeScreen
from plugsky_tui.terminal import TerminalProfile
from plugsky_tui.themes import BY_COLOUR

WIDTHS: list[tuple[int, str]] | None = [(0, "-narrow"), (80, "-normal")]
HEIGHTS: list[tuple[int, str]] | None = [(0, "-short"), (24, "-medium"), (32, "-tall")]
"""From how many cells on a screen carries which class of the style sheet."""


class ConsoleApp(App[None]):
    """Plugsky's console on one site."""

    TITLE = "Plugsky"
    CSS_PATH = "styles/console.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help", key_display="?", id="help", tooltip="The keys of this screen."),
        Binding("p", "pause", "Pause", id="pause", tooltip="Let the screen stand still, or move again."),
        Binding("q", "quit", "Quit", id="quit", tooltip="Leave the console. The site goes on."),
        Binding("ctrl+c", "quit", "Quit", id="interrupt", show=False, priority=True, tooltip="Leave the console."),
    ]

    def __init__(self, admin: Admin, profile: TerminalProfile) -> None:
        theme = BY_COLOUR[profile.colour]
        # Said here and not later: Textual picks its colour filters while it is being made (see themes).
        super().__init__(ansi_color=theme.ansi)
        for known in BY_COLOUR.values():
            self.register_theme(known)
        self.theme = theme.name
        self.animation_level = "full" if profile.animation else "none"
        self.add_class(f"-{profile.colour}", f"-{profile.charset}")
        self._admin = admin
        self._profile = profile
        self._home = HomeScreen(profile.charset)
        self._state = HomeState(shows_seconds=profile.shows_seconds)

    async def on_mount(self) -> None:
        await self.push_screen(self._home)
        self.run_worker(self._follow(), name="feed", exclusive=True)

    async def _follow(self) -> None:
        async with aclosing(follow(self._admin, self._profile.tick)) as news:
            async for item in news:
                self._take(item)

    def _take(self, news: Home | Lost) -> None:
        self._state = self._state.after(news)
        self._home.show(self._state)

    def action_pause(self) -> None:
        self._state = self._state.toggled()
        self._home.show(self._state)

    def action_help(self) -> None:
        bindings = [active.binding for active in self.screen.active_bindings.values() if active.binding.show]
        keys = [(self.get_key_display(binding), binding.tooltip) for binding in bindings]
        self.push_screen(HelpScreen(self._home.ABOUT, self._home.LEGEND, keys, self._profile.charset))


def run_full_screen(admin: Admin, profile: TerminalProfile) -> None:
    """Runs the console until the operator leaves it or the process is told to end; the terminal is restored.

    Raises:
        PlugskyError: the console itself failed; Textual has written where to stderr.
    """
    asyncio.run(_run(admin, profile))


async def _run(admin: Admin, profile: TerminalProfile) -> None:
    app = ConsoleApp(admin, profile)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, app.exit)
    await app.run_async(mouse=profile.mouse)
    if app.return_code:
        raise PlugskyError(ErrorKind.INTERNAL, "the console failed", next="plugsky console --plain")
