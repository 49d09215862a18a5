"""Names of wheels (PEP 427) and finding one that this machine can install."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from setup.locks import normalised

_NAME: Final = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-(?P<build>\d[^-]*))?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
_READ: Final = 1 << 20


@dataclass(frozen=True)
class WheelName:
    """The parts of a wheel's file name; the tags are compressed sets, as PEP 425 writes them."""

    name: str
    version: str
    python: frozenset[str]
    abi: frozenset[str]
    platform: frozenset[str]

    @classmethod
    def parse(cls, file_name: str) -> Self | None:
        """The parts of ``file_name``, or None when it is no wheel's name."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        tags = (frozenset(match[part].split(".")) for part in ("python", "abi", "platform"))
        return cls(normalised(match["name"]), match["version"], *tags)

    def runs_on(self, python: tuple[int, int], machine: str) -> bool:
        """Whether CPython ``python`` on Linux ``machine`` can install it. pip has the last word on the C library's
        age."""
        major, minor = python
        exact = f"cp{major}{minor}"
        interpreter = bool(self.python & {f"py{major}", exact}) and bool(self.abi & {"none", "abi3", exact})
        platform = re.compile(rf"any|(many)?linux[0-9_]*_{re.escape(machine)}")
        return interpreter and any(platform.fullmatch(tag) for tag in self.platform)


def matching(folder: Path, name: str, version: str, python: tuple[int, int], machine: str) -> Path | None:
    """The wheel in ``folder`` of exactly that package and version which this interpreter can install; the last by
    name."""
    found = [path for path in _wheels(folder) if _fits(path.name, name, version, python, machine)]
    return max(found, key=lambda path: path.name, default=None)


def _wheels(folder: Path) -> Iterable[Path]:
    return folder.glob("*.whl") if folder.is_dir() else ()


def _fits(file_name: str, name: str, version: str, python: tuple[int, int], machine: str) -> bool:
    wheel = WheelName.parse(file_name)
    return (
        wheel is not None
        and (wheel.name, wheel.version) == (normalised(name), version)
        and wheel.runs_on(python, machine)
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    total = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(_READ):
            total.update(block)
    return total.hexdigest()
