"""The news from the site: one Home after another, and what went wrong whenever they stop.

:func:`follow` never ends by itself. A stream that breaks, ends or falls silent is one :class:`Lost`, then another try
after 1, 2, 4 and from then on every 5 seconds; the first Home of a new stream ends the trouble.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

from plugsky.admin.api import Admin, Home
from plugsky.core.errors import PlugskyError

PAUSES: Final = (1.0, 2.0, 4.0, 5.0)
"""Seconds to wait before each new try; the last one repeats."""
SILENCE: Final = 10.0
"""A stream without news for this many seconds, or five intervals if that is longer, counts as lost."""


@dataclass(frozen=True)
class Lost:
    """The site gave no news: what happened, why, and the next command to try."""

    what: str
    why: str = ""
    next: str = ""


async def follow(
    admin: Admin, interval_s: float, *, pauses: tuple[float, ...] = PAUSES, silence: float = SILENCE
) -> AsyncGenerator[Home | Lost, None]:
    """Every Home of ``admin``, ``interval_s`` seconds apart, with a Lost at each break. Close it to stop."""
    limit = max(silence, 5 * interval_s)
    failures = 0
    while True:
        homes = admin.watch_home(interval_s)
        try:
            while True:
                async with asyncio.timeout(limit):
                    home = await anext(homes)
                failures = 0
                yield home
        except PlugskyError as error:
            lost = Lost(error.what, error.why, error.next)
        except TimeoutError:
            lost = Lost("the site gives no news", f"its last was over {limit:.0f} s ago", "plugsky doctor")
        except (OSError, StopAsyncIteration):
            lost = Lost("the site closed the connection", "it may be stopping or starting again", "plugsky doctor")
        finally:
            await _close(homes)
        yield lost
        await asyncio.sleep(pauses[min(failures, len(pauses) - 1)])
        failures += 1


async def _close(homes: AsyncIterator[Home]) -> None:
    if isinstance(homes, AsyncGenerator):
        await homes.aclose()
