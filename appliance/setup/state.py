"""What the set-up has done so far, so that a second run does nothing and an interrupted one goes on.

The record lies inside ``.venv`` and dies with it. It maps each finished step to the digest of what it was made from;
a step whose digest is unchanged is not done again. While pip changes the environment the record is marked: a marked
environment was left half-way and is made anew, because pip may take a half-installed package for a whole one. One
set-up at a time holds the lock.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

RECORD: Final = "plugsky-setup.json"


class Record:
    """The finished steps of one environment, read from and written through to its file."""

    def __init__(self, environment: Path) -> None:
        self._path = environment / RECORD
        self._steps: dict[str, str] = {}
        self.in_progress = False
        self.exists = self._path.is_file()
        if self.exists:
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._steps = {str(name): str(value) for name, value in content["steps"].items()}
            self.in_progress = bool(content["in_progress"])
        except (ValueError, KeyError, TypeError, AttributeError):
            self.in_progress = True  # a record that cannot be read says nothing good about its environment

    def is_done(self, step: str, digest: str) -> bool:
        """Whether ``step`` was finished from exactly this input."""
        return self._steps.get(step) == digest

    def get(self, name: str) -> str:
        """A value kept with the steps, or the empty string."""
        return self._steps.get(name, "")

    @contextmanager
    def doing(self, step: str, digest: str, **facts: str) -> Iterator[None]:
        """Mark the environment while the block changes it; afterwards the step is done, and ``facts`` are kept."""
        self._steps.pop(step, None)
        self.in_progress = True
        self._write()
        yield
        self._steps |= {step: digest} | facts
        self.in_progress = False
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"steps": self._steps, "in_progress": self.in_progress}, indent=2, sort_keys=True)
        write_whole(self._path, content + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is seen either as it was or complete."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    part.replace(path)


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the lock at ``path``, waiting for another set-up if there is one; yields the lock's descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
