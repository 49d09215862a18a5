"""What an installation will do, fixed before anything is written. Pure.

A `Plan` is made only from a `VerifiedBundle` and the facts of a site. It names every file by digest and says which the
store already holds, and of the others how many bytes come from the media and how many from chunks that the store holds
inside other files. It is shown, asked about, and then exactly that plan is applied: `digest` stands for it, and does
not change with the free space or with what an interrupted run left in staging.

Refused here, before the first write: what `preflight` refuses, and blobs that a delta leaves out and this site does not
hold (`BaseMissing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from plugsky_bundles import preflight
from plugsky_bundles.format import MIB, Chunk, FileEntry
from plugsky_bundles.preflight import LOCK_PATH, SiteFacts
from plugsky_bundles.since import base_missing
from plugsky_bundles.strict_json import encode
from plugsky_bundles.verified import VerifiedBundle

__all__ = ["LOCK_PATH", "Plan", "PlannedFile", "SiteFacts", "plan_install"]

SCHEMA: Final = "plugsky.plan/1"
MARGIN: Final = 64 * MIB
COMPILED_SHARE: Final = 2
INODE_MARGIN: Final = 256


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the bundle; `held` when the store already has it, `spoiled` when what it has is something else.

    Of one that is copied, `composed` bytes are in the store already, as chunks of other files.
    """

    path: str
    length: int
    sha256: str
    held: bool
    spoiled: bool = False
    composed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """`generation` is the one this installation makes, or the one that is there already (`installed`).

    `replaces` is the generation that is current until then; `repairs` a damaged one of the same bundle, in whose stead
    a new one is made.
    Bytes: `read_bytes` from media, `store_bytes` from the store, each blob once; `write_bytes` into the store,
    `venv_bytes` for the unpacked Python parts, `need_bytes` of free space in all.
    `lock` is the path of the lock of the Python parts for this host; parts for other hosts are not in `files`.
    `warnings` are for people to read before they say yes.
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
    store_bytes: int
    write_bytes: int
    venv_bytes: int
    need_bytes: int
    lock: str | None = None
    warnings: tuple[str, ...] = ()

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
            "store_bytes": self.store_bytes,
            "write_bytes": self.write_bytes,
            "venv_bytes": self.venv_bytes,
            "need_bytes": self.need_bytes,
            "warnings": list(self.warnings),
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
            "lock": self.lock,
            "files": [
                {
                    "path": file.path,
                    "length": file.length,
                    "sha256": file.sha256,
                    "held": file.held,
                    "spoiled": file.spoiled,
                    "composed": file.composed,
                }
                for file in self.files
            ],
        }


def plan_install(verified: VerifiedBundle, site: SiteFacts) -> Plan:
    """The plan that brings `site` to `verified`. Raises NotForThisHost, UnfitSite, NoSpace or BaseMissing."""
    lock = preflight.choose_lock(verified.entries, site)
    entries = preflight.for_host(verified.entries, lock)
    there = site.installed.get(verified.bundle_id)
    installed = there is not None and there not in site.damaged
    files = tuple(_planned(entry, site) for _, entry in sorted(entries.items()))
    copied = {file.sha256: entries[file.path] for file in reversed(files) if not file.held and not installed}
    media, store = _sources(copied.values(), verified, site)
    write_bytes = sum(entry.length for entry in copied.values())
    staged = sum(min(entry.length, site.staged.get(digest, 0)) for digest, entry in copied.items())
    venv_bytes, members = _venv(entries)
    need_bytes = need_inodes = 0
    warnings: tuple[str, ...] = ()
    if not installed:
        need_bytes = write_bytes - staged + venv_bytes + MARGIN
        need_inodes = len(copied) + len(files) + COMPILED_SHARE * members + INODE_MARGIN
        need_inodes += sum(bool(entry.chunks) for entry in copied.values())
        warnings = preflight.warnings(entries, lock, site)
        preflight.check_file_system(((entry.path, entry.length) for entry in copied.values()), site)
        preflight.check_room(need_bytes, need_inodes, site)
    return Plan(
        channel=verified.channel,
        version=verified.version,
        bundle_id=verified.bundle_id,
        content_id=verified.content_id,
        generation=there if installed and there is not None else site.next_generation,
        installed=installed,
        replaces=site.current,
        repairs=None if installed else there,
        files=files,
        read_bytes=media,
        store_bytes=store,
        write_bytes=write_bytes,
        venv_bytes=venv_bytes,
        need_bytes=need_bytes,
        lock=lock,
        warnings=warnings,
    )


def _planned(entry: FileEntry, site: SiteFacts) -> PlannedFile:
    held = site.store.get(entry.sha256) == entry.length
    composed = 0 if held else sum(blob.length for blob in entry.blobs if blob.sha256 in site.blobs)
    return PlannedFile(entry.path, entry.length, entry.sha256, held, entry.sha256 in site.spoiled, composed)


def _sources(entries: Iterable[FileEntry], verified: VerifiedBundle, site: SiteFacts) -> tuple[int, int]:
    """How many bytes of these files come from the media and from the store. Raises BaseMissing for one from neither."""
    media: dict[str, Chunk] = {}
    store: dict[str, Chunk] = {}
    for entry in entries:
        for blob in entry.blobs:
            if blob.sha256 in site.blobs:
                store[blob.sha256] = blob
            elif blob.sha256 not in verified.absent:
                media[blob.sha256] = blob
            else:
                raise base_missing(f"A part of {entry.path}", verified.since)
    return sum(blob.length for blob in media.values()), sum(blob.length for blob in store.values())


def _venv(entries: Mapping[str, FileEntry]) -> tuple[int, int]:
    """Bytes and members of the unpacked wheels, as signed; bytecode takes about as much again."""
    sizes = [_positive(entry.custom.get("unpacked")) for entry in entries.values()]
    members = [_positive(entry.custom.get("members")) for entry in entries.values()]
    return COMPILED_SHARE * sum(sizes), sum(members)


def _positive(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
