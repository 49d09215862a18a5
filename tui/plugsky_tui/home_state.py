"""What the console knows at one moment, and how each piece of news changes it. Pure.

The views draw a :class:`HomeState` and nothing else. Everything foreign is cleaned here, on arrival, so that no view
has to think of it. While paused, a Home is let go and the picture stands still; the loss of the site still shows.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from plugsky.admin.api import Home
from plugsky_tui.cells import clean
from plugsky_tui.feed import Lost

HISTORY: Final = 240
"""How many past values a trend keeps; the console collects them only while it is open."""


@dataclass(frozen=True)
class HomeState:
    """The last Home, what broke since, whether it stands still, and the recent past of two figures."""

    home: Home | None = None
    lost: Lost | None = None
    paused: bool = False
    shows_seconds: bool = True
    tokens_per_s: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()

    def after(self, news: Home | Lost) -> "HomeState":
        """The state once ``news`` has come."""
        if isinstance(news, Lost):
            return replace(self, lost=Lost(clean(news.what), clean(news.why), clean(news.next)))
        if self.paused:
            return replace(self, lost=None)
        home = cleaned(news)
        return replace(
            self,
            home=home,
            lost=None,
            tokens_per_s=_pushed(self.tokens_per_s, home.traffic.tokens_per_s if home.traffic else None),
            cpu=_pushed(self.cpu, home.host.cpu_fraction),
        )

    def toggled(self) -> "HomeState":
        """The state with its pause begun or ended; before the first Home there is nothing to pause."""
        return replace(self, paused=not self.paused and self.home is not None)


def cleaned(home: Home) -> Home:
    """``home`` with every text in it safe to paint (see :func:`plugsky_tui.cells.clean`)."""
    return msgspec.convert(_cleaned(msgspec.to_builtins(home)), Home)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _cleaned(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(part) for part in value]
    return value


def _pushed(past: tuple[float, ...], value: float | None) -> tuple[float, ...]:
    return past if value is None else (*past, value)[-HISTORY:]
