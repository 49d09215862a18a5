"""Says what the set-up is doing: one moving line on a terminal, a line per tenth or per half minute in a log.

A :class:`Step` is never silent: on a terminal a thread redraws it four times a second with the elapsed time;
elsewhere a line appears at each tenth of the work and at least every 30 seconds.
"""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_REDRAW_SECONDS: Final = 0.25
_HEARTBEAT_SECONDS: Final = 30.0


def clock(seconds: float) -> str:
    """A duration as people read it: ``4.2 s``, ``1:07``."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Pacer:
    """Decides when a log deserves another line: at each tenth of the work, and after 30 seconds without one."""

    def __init__(self, now: float) -> None:
        self._tenth = 0
        self._spoke = now

    def due(self, fraction: float | None, now: float) -> bool:
        """Whether to speak now; remembers that it was."""
        tenth = int((fraction or 0.0) * 10)
        if tenth <= self._tenth and now - self._spoke < _HEARTBEAT_SECONDS:
            return False
        self._tenth, self._spoke = max(tenth, self._tenth), now
        return True


class Step:
    """One piece of work in progress; ``update`` may be called from any thread, as often as there is news."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.began = time.monotonic()
        self._fraction: float | None = None
        self._detail = ""

    def update(self, done: float, total: float, detail: str = "") -> None:
        """``done`` of ``total`` units are done; a ``total`` of zero means that nobody knows."""
        self._fraction = min(done / total, 1.0) if total > 0 else None
        self._detail = detail

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1, or None when nobody knows."""
        return self._fraction

    def line(self, now: float) -> str:
        """The step in one line: title, per cent, elapsed time, detail."""
        share = f" {self._fraction:4.0%}" if self._fraction is not None else ""
        return f"{self.title}:{share} {clock(now - self.began)}" + (f"  {self._detail}" if self._detail else "")


class Reporter:
    """Writes notes and steps to ``stream``; ``live`` redraws one line, as fits a terminal."""

    def __init__(self, stream: TextIO, *, live: bool) -> None:
        self._stream = stream
        self._live = live

    def note(self, text: str) -> None:
        """One line that stays."""
        self._write(f"{text}\n")

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Report on a piece of work from its beginning to its end, whatever its end is."""
        step = Step(title)
        stop = threading.Event()
        if not self._live:
            self.note(f"{title} ...")
        ticker = threading.Thread(target=self._tick, args=(step, stop), daemon=True)
        ticker.start()
        outcome = "stopped after"
        try:
            yield step
            outcome = "done in"
        finally:
            stop.set()
            ticker.join()
            self._write(f"{self._erase()}{title}: {outcome} {clock(time.monotonic() - step.began)}\n")

    def _tick(self, step: Step, stop: threading.Event) -> None:
        pacer = Pacer(step.began)
        while not stop.wait(_REDRAW_SECONDS):
            now = time.monotonic()
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                self._write(self._erase() + step.line(now)[:width])
            elif pacer.due(step.fraction, now):
                self.note(f"  {step.line(now)}")

    def _erase(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
