"""Compares a .deb with what its lock says of it, and writes down what a reviewer wants to know before it runs as root.

Refused: another name, version or architecture inside than outside. Reported: the maintainer scripts with their hashes
and whether they divert files of other packages, and every file that is setuid or setgid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plugsky_builder.debs import archive
from plugsky_builder.debs.archive import Deb
from plugsky_builder.debs.releases import Suite
from plugsky_builder.debs.upstream import Package
from plugsky_bundles.errors import SourceError
from plugsky_bundles.strict_json import encode

SCHEMA: Final = "plugsky.debs-report/1"


@dataclass(frozen=True, slots=True)
class Examined:
    """A package that was read: as its lock pins it, where it lies, and what is inside."""

    package: Package
    path: Path
    deb: Deb


def examine(package: Package, path: Path, arch: str) -> Examined:
    """Read the .deb of `package` for a target of `arch`. Raises SourceError for one that is not what it should be."""
    deb = archive.read(path, package.file)
    for field, expected in (
        ("Package", package.name),
        ("Version", package.version),
        ("Architecture", package.architecture),
    ):
        if deb.control.get(field) != expected:
            raise SourceError(
                f"{package.file} is not what its lock says",
                f"its {field} is {deb.control.get(field)!r}, not {expected!r}",
                "Make the lock again with `plugsky bundle lock RECIPE`",
            )
    if package.architecture not in (arch, "all"):
        raise SourceError(
            f"{package.file} is for another architecture",
            f"it is for {package.architecture}, the target is {arch}",
            "Make the lock again with `plugsky bundle lock RECIPE`",
        )
    return Examined(package, path, deb)


def report(target: str, examined: Sequence[Examined], proven: dict[str, Suite]) -> bytes:
    """What there is to know of a target's packages, as canonical JSON."""
    return encode({"schema": SCHEMA, "target": target, "packages": [_facts(item, proven) for item in examined]})


def _facts(item: Examined, proven: dict[str, Suite]) -> dict[str, Any]:
    package, deb = item.package, item.deb
    return {
        "file": package.file,
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "length": package.length,
        "sha256": package.sha256,
        "suite": proven[package.sha256].name,
        "source": deb.control.get("Source", package.name),
        "unpacked": deb.unpacked,
        "members": deb.members,
        "scripts": {name: hashlib.sha256(text).hexdigest() for name, text in deb.scripts.items()},
        "diverts": any(b"dpkg-divert" in text for text in deb.scripts.values()),
        "setuid": {path: f"{mode:04o}" for path, mode in sorted(deb.setuid.items())},
    }
