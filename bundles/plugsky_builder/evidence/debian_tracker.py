"""Looks Debian packages up in the data of Debian's security tracker, a file that the operator brings.

The file is what https://security-tracker.debian.org/tracker/data/json gives: source package -> CVE -> release ->
status. A package is affected by what is open in its release, and by what was fixed there in a version newer than its
own. Bounded: 256 MiB. The file has no date of its own, so its SHA-256 and its modification time are recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from debian.debian_support import version_compare

from plugsky_bundles.errors import NotFound, SourceError
from plugsky_bundles.format import MIB
from plugsky_bundles.times import stamp

MAX_DATA: Final = 256 * MIB


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """A source package as one release has it."""

    release: str
    name: str
    version: str


def look_up(file: Path, sources: Iterable[Source], at: datetime) -> dict[str, Any]:
    """What the tracker's `file` knows of `sources`. Raises NotFound or SourceError for a file that is not that."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_DATA + 1)
        modified = datetime.fromtimestamp(int(file.stat().st_mtime), UTC)
    except OSError as error:
        why = error.strerror or "it cannot be opened"
        raise NotFound(f"The tracker's data {file} cannot be read", why, "Check --debian-security-tracker") from error
    sources = sorted(set(sources))
    try:
        data = _parsed(raw)
        found = [one for source in sources for one in _of_source(source, data.get(source.name, {}))]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{file.name} is not the data of Debian's security tracker", str(error)[:200], f"Get it from {ADDRESS}"
        ) from error
    return {
        "checked": True,
        "at": stamp(at),
        "database": {
            "service": ADDRESS,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "as_of": stamp(modified),
        },
        "packages": len(sources),
        "found": sorted(found, key=lambda one: (one["name"], one["version"], one["id"])),
        "skipped": [],
    }


def _parsed(raw: bytes) -> Any:
    if len(raw) > MAX_DATA:
        msg = f"it is longer than {MAX_DATA} bytes"
        raise ValueError(msg)
    return json.loads(raw)


def _of_source(source: Source, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for cve, facts in known.items():
        here = facts["releases"].get(source.release)
        if here is None or not _is_affected(source.version, here):
            continue
        found.append(
            {
                "name": source.name,
                "version": source.version,
                "release": source.release,
                "id": str(cve),
                "aliases": [],
                "status": str(here["status"]),
                "urgency": str(here.get("urgency", "")),
                "fixed": [str(here["fixed_version"])] if "fixed_version" in here else [],
            }
        )
    return found


def _is_affected(version: str, here: Mapping[str, Any]) -> bool:
    """`fixed_version` of 0 says that the release never had it."""
    if here["status"] != "resolved":
        return bool(here["status"] == "open")
    fixed = str(here["fixed_version"])
    return fixed != "0" and version_compare(version, fixed) < 0


ADDRESS: Final = "https://security-tracker.debian.org/tracker/data/json"
