"""What a package needs on a host that is not this one, as apt itself would decide there.

apt runs in a private root that holds nothing but indexes that were verified before, the target's architecture and the
target's package status; its sources lead nowhere, so it can only answer from those. Recommended packages do not travel.
An empty status stands for a host of which nothing is known: then every dependency travels that the release does not
call essential.
Source: apt-get(8), --print-uris; apt.conf(5).
"""

from __future__ import annotations

import lzma
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from plugsky_builder import system_tools
from plugsky_builder.debs.releases import COMPONENT
from plugsky_builder.debs.upstream import Package, SignedSuite
from plugsky_bundles.errors import SourceError

NOWHERE: Final = "plugsky.invalid"
SECONDS: Final = 300
ESSENTIAL: Final = "?essential"
"""apt's pattern for the packages that every host of a release has (apt-patterns(7))."""
_URI: Final = re.compile(
    rf"'http://{NOWHERE}/(?P<path>[^'\s]+)' (?P<file>\S+) (?P<length>[0-9]+) SHA256:(?P<sha256>[0-9a-f]{{64}})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class VerifiedIndex:
    """A suite whose InRelease was verified, that file's bytes, and where the index that it vouches for lies."""

    signed: SignedSuite
    inrelease: bytes
    path: Path


def resolve(
    indexes: Sequence[VerifiedIndex], arch: str, packages: Sequence[str], status: bytes, work: Path
) -> list[Package]:
    """The packages to fetch so that `packages` can be installed where `status` is the dpkg status, sorted by name.

    `work` is an empty directory for the private root. Raises SourceError with apt's reason.
    """
    environment = {"APT_CONFIG": str(_private_root(indexes, arch, status, work))}
    command = [system_tools.find("apt-get", "apt"), "-q", "--yes", "--print-uris", "install", "--", *packages]
    said = system_tools.run(command, seconds=SECONDS, environment=environment)
    if said.code != 0:
        why = " / ".join(line for line in said.err.splitlines() if line.startswith("E: ")) or said.last
        explained = [line.strip() for line in said.out.decode("utf-8", "replace").splitlines() if "Depends:" in line]
        raise SourceError(
            f"{', '.join(packages)} cannot be resolved for {indexes[0].signed.suite} on {arch}",
            "; ".join([why, *explained])[:500],
            "Check the packages of the recipe and the package status of the target",
        )
    return sorted(read_uris(said.out.decode("ascii", "replace")))


def read_uris(text: str) -> list[Package]:
    """The packages that apt prints with --print-uris. Raises SourceError for one without a SHA-256."""
    found = []
    for line in text.splitlines():
        if not line.startswith("'"):
            continue
        match = _URI.fullmatch(line.strip())
        parts = match["file"].removesuffix(".deb").split("_") if match else []
        if match is None or len(parts) != 3:
            raise SourceError("apt's answer is not understood", line[:200], "Check the version of apt on this machine")
        name, version, architecture = (unquote(part) for part in parts)
        path = unquote(match["path"])
        found.append(Package(name, version, architecture, int(match["length"]), match["sha256"], path))
    return found


def _private_root(indexes: Sequence[VerifiedIndex], arch: str, status: bytes, root: Path) -> Path:
    """Lay out what apt reads; returns its configuration."""
    lists, empty = root / "lists", root / "empty"
    for folder in (lists / "partial", root / "archives" / "partial", empty):
        folder.mkdir(parents=True)
    (root / "status").write_bytes(status)
    sources = []
    for index in indexes:
        suite = index.signed.suite
        stem = f"{NOWHERE}_{suite.archive}_dists_{suite.name}_"
        (lists / f"{stem}InRelease").write_bytes(index.inrelease)
        with lzma.open(index.path) as packed, (lists / f"{stem}{COMPONENT}_binary-{arch}_Packages").open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        sources.append(f"deb [trusted=yes] http://{NOWHERE}/{suite.archive} {suite.name} {COMPONENT}\n")
    (root / "sources.list").write_text("".join(sources), encoding="ascii")
    settings = {
        "Dir": root,
        "Dir::State": root,
        "Dir::State::lists": lists,
        "Dir::State::status": root / "status",
        "Dir::State::extended_states": root / "extended_states",
        "Dir::Cache": root,
        "Dir::Cache::archives": root / "archives",
        "Dir::Etc": empty,
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": empty,
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": empty,
        "Dir::Etc::preferencesparts": empty,
        "Dir::Bin::dpkg": "/usr/bin/dpkg",
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::ForceHash": "SHA256",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    config = root / "apt.conf"
    config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()), encoding="utf-8")
    return config
