"""Puts a generation together at its final place, from files of the store; ``.complete`` comes last.

Everything else is on disk by then, so whatever carries that mark is whole. What is half made when this fails is the
caller's to remove.
"""

import ctypes
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from plugsky.core.paths import SitePaths
from plugsky.fleet import venv
from plugsky_bundles import strict_json
from plugsky_bundles.atomic import sync_directory, write_file
from plugsky_bundles.format import FileEntry
from plugsky_bundles.preflight import is_lock
from plugsky_bundles.progress import Progress, ProgressEvent

SCHEMA: Final = "plugsky.generation/1"
COMPLETE: Final = ".complete"
PROVENANCE: Final = "bundle.json"
LINKED_ROLES: Final = ("models", "playbooks", "policy", "debs")


@dataclass(frozen=True)
class Origin:
    """Where a generation comes from, as its provenance says it."""

    channel: str
    version: int
    bundle_id: str
    content_id: str
    root_fingerprint: str
    plan: str


@dataclass(frozen=True)
class Parts:
    """What goes in: ``files`` of the bundle, ``local`` ones of the facility, ``evidence`` by path, read as it is put.

    ``elsewhere`` are the bundle's files for other hosts than this: they are only listed, so that all together still
    give its content id. ``lists`` are the SHA-256 of chunk lists by path, ``on_media`` is evidence that is only listed.
    ``lock`` is the path of the lock of the Python parts; None makes no environment.
    """

    files: tuple[FileEntry, ...]
    local: tuple[FileEntry, ...]
    evidence: Iterable[tuple[str, bytes]]
    lock: str | None
    elsewhere: tuple[FileEntry, ...] = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    on_media: tuple[FileEntry, ...] = ()


def assemble(
    paths: SitePaths, number: int, origin: Origin, parts: Parts, installed_at: str, held: int, progress: Progress
) -> None:
    """Make generation ``number``. Every file must lie in the store; ``held`` is the lock that children share.

    Raises OSError, InstallError or NoSpace.
    """
    folder = paths.generations / str(number)
    folder.mkdir(mode=0o755)
    paths.staging.mkdir(mode=0o700, exist_ok=True)
    for entry in (*(entry for entry in parts.files if is_linked(entry.path)), *parts.local):
        (folder / entry.path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.link(paths.store / f"sha256-{entry.sha256}", folder / entry.path)
    for name, content in parts.evidence:
        (folder / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_file(folder / name, content, mode=0o444)
    if parts.lock is not None:
        wheels = {
            entry.path.rpartition("/")[2]: paths.store / f"sha256-{entry.sha256}"
            for entry in parts.files
            if entry.path.endswith(".whl")
        }
        venv.make(folder / "venv", wheels, folder / parts.lock, paths.staging, progress, held)
    provenance = {
        "schema": SCHEMA,
        **vars(origin),
        "installed_at": installed_at,
        "files": [
            {**listed, **({"chunks": parts.lists[entry.path]} if entry.path in parts.lists else {})}
            for entry, listed in zip(parts.files, _listed(parts.files), strict=True)
        ],
        "local": _listed(parts.local),
        "elsewhere": _listed(parts.elsewhere),
        "on_media": _listed(parts.on_media),
    }
    write_file(folder / PROVENANCE, strict_json.encode(provenance), mode=0o444)
    progress(ProgressEvent("sync", 0, 1, f"generation {number}"))
    _sync_file_system(folder)
    write_file(folder / COMPLETE, b"", mode=0o444)
    sync_directory(paths.generations)
    progress(ProgressEvent("sync", 1, 1, f"generation {number}"))


def is_linked(path: str) -> bool:
    """Whether a file of a bundle lies in its generations under its own name; wheels lie in the store alone."""
    return path.partition("/")[0] in LINKED_ROLES or is_lock(path)


def _listed(entries: Iterable[FileEntry]) -> list[dict[str, object]]:
    return [{"path": entry.path, "length": entry.length, "sha256": entry.sha256} for entry in entries]


def _sync_file_system(folder: Path) -> None:
    """Put thousands of small files on disk in one go (syncfs(2)); cheaper than one fsync each."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(handle)
