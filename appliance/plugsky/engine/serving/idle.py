"""Whether an engine has been idle for so long that it gives its memory back.

Idle is one that has its model and nothing to do, and that nobody asked anything but how it stands. Does no IO; the time
is passed in, in seconds, monotonic.
"""


class IdleClock:
    """Runs while nothing is asked. ``limit_s`` None: it never runs out."""

    def __init__(self, limit_s: float | None, now: float) -> None:
        self._limit_s = limit_s
        self._since = now

    def asked(self, now: float) -> None:
        """Somebody asked for something: it starts anew."""
        self._since = now

    def has_run_out(self, now: float, *, busy: bool) -> bool:
        """To be asked again and again; ``busy``: there is something to do, and it starts anew."""
        if busy:
            self._since = now
        return self._limit_s is not None and now - self._since >= self._limit_s
