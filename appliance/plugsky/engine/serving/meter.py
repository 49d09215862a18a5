"""How fast an engine is: tokens per second over a short window, falling to nothing when it is idle."""

from collections import deque
from typing import Final

WINDOW_S: Final = 5.0


class RateMeter:
    """Counts tokens in time. Times are monotonic seconds that the caller gives."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()

    def add(self, now: float, tokens: int) -> None:
        """``tokens`` were made just now."""
        self._recent.append((now, tokens))
        self._drop(now)

    def rate(self, now: float) -> float:
        """Tokens per second over the last :data:`WINDOW_S`, or since the first one when that is later."""
        self._drop(now)
        if not self._recent:
            return 0.0
        span = max(now - self._recent[0][0], 0.25)
        return sum(tokens for _, tokens in self._recent) / span

    def _drop(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
