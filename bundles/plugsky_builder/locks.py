"""Reads a Python lock: the pinned, hashed requirement lines that `uv pip compile` and `pip-compile` write.

Only what such a lock holds is understood (`name==version`, an optional environment marker, hashes, comments); anything
else is refused, because a line that is not pinned and hashed must not decide what travels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

from plugsky_bundles.errors import NotFound, RecipeError

MAX_LOCK: Final = 4 * 1024 * 1024
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)\s*(?:;\s*(.+))?", re.ASCII)
_SEPARATORS = re.compile(r"[-_.]+")


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked package; `marker` is empty where it is always needed."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def applies(self, environment: Mapping[str, str]) -> bool:
        """Whether it is needed where markers have these values. Raises RecipeError for one that cannot be read."""
        if not self.marker:
            return True
        try:
            return Marker(self.marker).evaluate(environment)
        except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName) as error:
            raise RecipeError(f"The lock's marker of {self.name} cannot be read", str(error), _REMAKE) from error

    def line(self) -> str:
        """The pin as a requirement line."""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker} " + " ".join(f"--hash=sha256:{digest}" for digest in self.hashes)


def normalised(name: str) -> str:
    """A package name as the index compares it (PEP 503)."""
    return _SEPARATORS.sub("-", name).lower()


def read(path: Path) -> tuple[Pin, ...]:
    """The pins of the lock at `path`, in its order. Raises NotFound or RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        why = error.strerror or "it cannot be opened"
        raise NotFound(f"The lock {path} cannot be read", why, "Check the path in the recipe") from error
    if len(text) > MAX_LOCK:
        raise _refused(path, f"it is larger than {MAX_LOCK} bytes")
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        content = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not content:
            continue
        hashes = tuple(_HASH.findall(content))
        match = _PIN.fullmatch(_HASH.sub("", content).strip())
        if match is None or not hashes:
            raise _refused(path, f"the line {content[:80]!r} is not name==version with SHA-256 hashes")
        pins.append(Pin(normalised(match[1]), match[2], (match[3] or "").strip(), hashes))
    return tuple(pins)


def _refused(path: Path, why: str) -> RecipeError:
    return RecipeError(f"The lock {path.name} cannot be used", why, _REMAKE)


_REMAKE: Final = "Make it again with `uv pip compile --generate-hashes`"
