"""Whether a site can take a bundle at all: everything that can be said before the first write. Pure.

Refused, with the numbers: parts for another Python, machine or C library (`NotForThisHost`); models of which not one
fits into the memory of the host (`NotForThisHost`: the engine refuses a model that is larger than what is free, so such
a site could never answer); directories that do not share a file system, a file system without hard links, a file that
is longer than the file system or the user's limit allows (`UnfitSite`); too little space or too few inodes (`NoSpace`).

Only said, in `warnings`: a model that does not fit while another does, for memory can be added and it may be meant for
another host of the site; parts that were made for another system with the same Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from plugsky_bundles.errors import NoSpace, NotForThisHost, UnfitSite
from plugsky_bundles.format import MAX_FILE, FileEntry
from plugsky_bundles.sizes import shortage, size, sizes

LOCK_NAME: Final = "requirements.txt"
LOCK_PATH: Final = f"python/{LOCK_NAME}"
_PARTED: Final = ("python", "debs")
_ANOTHER: Final = "Ask the operator for a bundle for this host; `plugsky bundle inspect` shows what this one holds"


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What a plan needs to know of a site.

    `store` and `staged` map the digests held there to lengths in bytes (of `staged`: those that take no new room);
    `blobs` are digests of chunks inside stored files; `spoiled` are digests whose file in the store is not what its
    name says. `installed` maps bundle ids to generations, of which `damaged` are not whole; `current` is the generation
    that runs, None before the first.
    Of the host: `python` as major.minor, `machine`, `os` (as `debian-12`) and `glibc`, each empty when unknown, and
    `memory` in bytes, 0 when unknown. Of its file system: `max_file` in bytes, `links` whether it has hard links, and
    `apart`: the site's directories that lie on another one.
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
    blobs: frozenset[str] = field(default=frozenset(), repr=False)
    os: str = ""
    glibc: str = ""
    memory: int = 0
    max_file: int = MAX_FILE
    links: bool = True
    apart: tuple[str, ...] = ()


def choose_lock(entries: Mapping[str, FileEntry], site: SiteFacts) -> str | None:
    """The path of the lock whose Python parts fit the host, that of its own system first; None when there are none.

    Raises NotForThisHost, naming the hosts that there are parts for.
    """
    locks = {path: entry.custom for path, entry in entries.items() if is_lock(path)}
    fitting = [path for path, custom in locks.items() if _fits(custom, site)]
    if locks and not fitting:
        there = "; ".join(_told(custom) for custom in locks.values())
        raise NotForThisHost(
            "The bundle is not for this host",
            f"its Python parts are for {there}, this is Python {site.python} on {site.machine}"
            + (f" with {site.os} and glibc {site.glibc}" if site.os and site.glibc else ""),
            _ANOTHER,
        )
    return min(fitting, key=lambda path: (locks[path].get("os") != site.os, path), default=None)


def is_lock(path: str) -> bool:
    """Whether a path is that of a lock: `python/requirements.txt`, or the same in the folder of a target."""
    parts = path.split("/")
    return parts[0] == "python" and parts[-1] == LOCK_NAME and len(parts) <= 3


def for_host(entries: Mapping[str, FileEntry], lock: str | None) -> dict[str, FileEntry]:
    """`entries` without the parts that are for other targets than the one of `lock`."""
    folders = {path.split("/")[1] for path in entries if is_lock(path) and path != LOCK_PATH}
    if lock is not None and lock != LOCK_PATH:
        folders.discard(lock.split("/")[1])
    others = tuple(f"{role}/{folder}/" for role in _PARTED for folder in folders)
    return {path: entry for path, entry in entries.items() if not path.startswith(others)}


def warnings(entries: Mapping[str, FileEntry], lock: str | None, site: SiteFacts) -> tuple[str, ...]:
    """What people should know before they say yes. Raises NotForThisHost when no model fits into memory."""
    said = []
    made_for = entries[lock].custom.get("os", site.os) if lock is not None else site.os
    if site.os and made_for != site.os:
        said.append(f"the Python parts were made for {made_for}; this is {site.os} with the same Python")
    models: dict[str, int] = {}
    for path, entry in entries.items():
        if path.endswith(".gguf"):
            models[path.split("/")[1]] = models.get(path.split("/")[1], 0) + entry.length
    large = {name: length for name, length in models.items() if 0 < site.memory < length}
    have = f"this host has {size(site.memory)} of memory"
    said += [f"the model {name} will not load: it has {size(length)}, {have}" for name, length in large.items()]
    if large and len(large) == len(models):
        name, length = min(large.items(), key=lambda model: model[1])
        raise NotForThisHost(
            "No model of the bundle fits into this host",
            f"the smallest, {name}, has {size(length)}, {have}",
            "Ask the operator for a smaller quantisation, or install on a larger host",
        )
    return tuple(said)


def check_file_system(lengths: Iterable[tuple[str, int]], site: SiteFacts) -> None:
    """Refuse a file system on which files of these paths and lengths cannot become a generation. Raises UnfitSite."""
    if site.apart:
        raise UnfitSite(
            "The site lies on several file systems",
            f"{' and '.join(site.apart)} must be on that of the site's own directory, for files are linked, not copied",
            "Put all of the site on one file system, with --root",
        )
    for path, length in lengths:
        if length > site.max_file:
            has, limit = sizes(length, site.max_file)
            raise UnfitSite(
                f"{path} is too long for the site's file system",
                f"it has {has}, the limit here is {limit}",
                "Name a site on another file system with --root, or raise the user's limit of file sizes",
            )
    if not site.links:
        raise UnfitSite(
            "The site's file system has no hard links",
            "generations share their files with the store by hard links",
            "Name a site on another file system with --root, for example ext4",
        )


def check_room(need_bytes: int, need_inodes: int, site: SiteFacts) -> None:
    """Raises NoSpace, with the numbers."""
    if need_bytes > site.free_bytes:
        raise NoSpace(
            "The bundle does not fit",
            shortage(need_bytes, site.free_bytes),
            "Free some space, or name a site on a larger file system with --root",
        )
    if need_inodes > site.free_inodes:
        raise NoSpace(
            "The bundle does not fit",
            f"it needs {need_inodes} inodes, {site.free_inodes} are free",
            "Remove files, or name a site on another file system with --root",
        )


def _fits(custom: Mapping[str, Any], site: SiteFacts) -> bool:
    if (custom.get("python"), custom.get("machine")) != (site.python, site.machine):
        return False
    needs = _version(custom.get("glibc", ""))
    return not needs or not site.glibc or needs <= _version(site.glibc)


def _told(custom: Mapping[str, Any]) -> str:
    system = f" with {custom['os']}" if "os" in custom else ""
    return f"Python {custom.get('python')} on {custom.get('machine')}{system}"


def _version(text: Any) -> tuple[int, ...]:
    parts = text.split(".") if isinstance(text, str) else []
    return tuple(int(part) for part in parts) if parts and all(part.isdecimal() for part in parts) else ()
