"""What an installation will do, fixed before anything is written. Pure.

A `Plan` is made only from a `VerifiedBundle` and the facts of a site. It names every file by digest and says which are
copied and which the store already holds. It is shown, asked about, and then exactly that plan is applied: `digest`
stands for it, and does not change with the free space or with what an interrupted run left in staging.

Refused here, before the first write: parts made for another Python or machine (`NotForThisHost`), and too little space
or too few inodes (`NoSpace`, with the numbers).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from plugsky_bundles.errors import NoSpace, NotForThisHost
from plugsky_bundles.format import MIB, FileEntry
from plugsky_bundles.strict_json import encode
from plugsky_bundles.verified import VerifiedBundle

SCHEMA: Final = "plugsky.plan/1"
LOCK_PATH: Final = "python/requirements.txt"
MARGIN: Final = 64 * MIB
COMPILED_SHARE: Final = 2
INODE_MARGIN: Final = 256


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What a plan needs to know of a site.

    `store` and `staged` map the digests held there to lengths in bytes; `spoiled` are digests whose file in the store
    is not what its name says. `installed` maps bundle ids to generations, of which `damaged` are not whole; `current`
    is the generation that runs, None before the first.
    """

    store: Mapping[str, int]
    staged: Mapping[str, int]
    free_bytes: int
    free_inodes: int
    next_generation: int
    installed: Mapping[str, int]
    python: str
    machine: str
    current: int | None = None
    damaged: frozenset[int] = frozenset()
    spoiled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the bundle; `held` when the store already has it, `spoiled` when what it has is something else."""

    path: str
    length: int
    sha256: str
    held: bool
    spoiled: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """`generation` is the one this installation makes, or the one that is there already (`installed`).

    `replaces` is the generation that is current until then; `repairs` a damaged one of the same bundle, in whose stead
    a new one is made.
    Bytes: `read_bytes` from media, `write_bytes` into the store, `venv_bytes` for the unpacked Python parts,
    `need_bytes` of free space in all.
    """

    channel: str
    version: int
    bundle_id: str
    content_id: str
    generation: int
    installed: bool
    replaces: int | None
    repairs: int | None
    files: tuple[PlannedFile, ...]
    read_bytes: int
    write_bytes: int
    venv_bytes: int
    need_bytes: int

    @property
    def activates(self) -> bool:
        """Whether another generation than now will run; where not, nothing is to do at all."""
        return not self.installed or self.replaces != self.generation

    @property
    def copied(self) -> tuple[PlannedFile, ...]:
        return tuple(file for file in self.files if not file.held)

    @property
    def digest(self) -> str:
        """SHA-256 of the plan: what an approval or a request to apply it names."""
        return hashlib.sha256(encode(self._fixed())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, for people and machines to look at."""
        return {
            **self._fixed(),
            "digest": self.digest,
            "read_bytes": self.read_bytes,
            "write_bytes": self.write_bytes,
            "venv_bytes": self.venv_bytes,
            "need_bytes": self.need_bytes,
        }

    def _fixed(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "channel": self.channel,
            "version": self.version,
            "bundle_id": self.bundle_id,
            "content_id": self.content_id,
            "generation": self.generation,
            "installed": self.installed,
            "replaces": self.replaces,
            "repairs": self.repairs,
            "files": [
                {
                    "path": file.path,
                    "length": file.length,
                    "sha256": file.sha256,
                    "held": file.held,
                    "spoiled": file.spoiled,
                }
                for file in self.files
            ],
        }


def plan_install(verified: VerifiedBundle, site: SiteFacts) -> Plan:
    """The plan that brings `site` to `verified`. Raises NotForThisHost or NoSpace."""
    _check_host(verified, site)
    there = site.installed.get(verified.bundle_id)
    installed = there is not None and there not in site.damaged
    files = tuple(
        PlannedFile(
            path,
            entry.length,
            entry.sha256,
            held=site.store.get(entry.sha256) == entry.length,
            spoiled=entry.sha256 in site.spoiled,
        )
        for path, entry in sorted(verified.entries.items())
    )
    missing = {file.sha256: file.length for file in files if not file.held}
    staged = sum(length for digest, length in missing.items() if site.staged.get(digest) == length)
    write_bytes = sum(missing.values())
    venv_bytes, members = _venv(verified.entries)
    need_bytes = 0 if installed else write_bytes - staged + venv_bytes + MARGIN
    plan = Plan(
        channel=verified.channel,
        version=verified.version,
        bundle_id=verified.bundle_id,
        content_id=verified.content_id,
        generation=there if installed and there is not None else site.next_generation,
        installed=installed,
        replaces=site.current,
        repairs=None if installed else there,
        files=files,
        read_bytes=0 if installed else write_bytes,
        write_bytes=0 if installed else write_bytes,
        venv_bytes=venv_bytes,
        need_bytes=need_bytes,
    )
    if need_bytes > site.free_bytes:
        raise NoSpace(
            "The bundle does not fit",
            f"it needs {_mib(need_bytes)} MiB, {_mib(site.free_bytes)} MiB are free",
            "Free some space, or name a site on a larger file system with --root",
        )
    need_inodes = 0 if installed else len(missing) + len(files) + COMPILED_SHARE * members + INODE_MARGIN
    if need_inodes > site.free_inodes:
        raise NoSpace(
            "The bundle does not fit",
            f"it needs {need_inodes} inodes, {site.free_inodes} are free",
            "Remove files, or name a site on another file system with --root",
        )
    return plan


def _check_host(verified: VerifiedBundle, site: SiteFacts) -> None:
    lock = verified.entries.get(LOCK_PATH)
    if lock is None:
        return
    made_for = (lock.custom.get("python"), lock.custom.get("machine"))
    if made_for != (site.python, site.machine):
        raise NotForThisHost(
            "The bundle is not for this host",
            f"its Python parts are for Python {made_for[0]} on {made_for[1]},"
            f" this is Python {site.python} on {site.machine}",
            "Ask the operator for a bundle built for this host",
        )


def _venv(entries: Mapping[str, FileEntry]) -> tuple[int, int]:
    """Bytes and members of the unpacked wheels, as signed; bytecode takes about as much again."""
    sizes = [_positive(entry.custom.get("unpacked")) for entry in entries.values()]
    members = [_positive(entry.custom.get("members")) for entry in entries.values()]
    return COMPILED_SHARE * sum(sizes), sum(members)


def _positive(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _mib(count: int) -> int:
    return -(-count // MIB)
