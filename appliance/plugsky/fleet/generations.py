"""Generations of a site: ``generations/<n>`` holds everything that one installed bundle needs to run.

A generation counts once its ``.complete`` is there, which is written last; anything else with a number is the remains
of an interrupted installation and is removed by the next one. ``current`` is a symbolic link that is only ever
replaced in one step, so a site runs the old generation or the new one and never something between.
Files are hard links into the store: kept once, read-only, shared by every generation that has them.
A damaged generation is never mended in place: its bundle makes a new one, and damaged files leave the store.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from plugsky.core.clock import rfc3339
from plugsky.core.paths import SitePaths
from plugsky.fleet import evidence, installed_chunks, local_models
from plugsky.fleet.assembly import COMPLETE, PROVENANCE, SCHEMA, Origin, Parts, assemble, is_linked
from plugsky.fleet.lock import writers_lock
from plugsky.fleet.ownership import check_own
from plugsky.fleet.removal import remove_generation
from plugsky_bundles import staging, strict_json, transfer
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.errors import BundleError, MalformedMetadata, NotFound, SiteChanged, SiteUnwritable
from plugsky_bundles.format import FileEntry
from plugsky_bundles.plan import Plan, SiteFacts
from plugsky_bundles.preflight import is_lock
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.state import Revocations, check_revoked
from plugsky_bundles.verified import VerifiedBundle

MAX_PROVENANCE: Final = 32 << 20
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Generation:
    """A complete generation and the bundle it came from; ``files`` maps paths to digests, ``lengths`` to bytes."""

    number: int
    path: Path
    channel: str
    version: int
    bundle_id: str
    content_id: str
    root_fingerprint: str
    installed_at: str
    files: dict[str, str]
    lengths: dict[str, int] = field(default_factory=dict)
    local: tuple[FileEntry, ...] = ()
    """The files of models made in this facility, which no bundle brought: ``models/<id>/<name>``."""
    elsewhere: tuple[FileEntry, ...] = ()
    """The bundle's files for other hosts than this one; they are not here."""
    lists: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of the chunk list of each file that came in chunks, by path."""
    on_media: tuple[FileEntry, ...] = ()
    """Evidence that stayed on the media."""

    @property
    def digests(self) -> dict[str, str]:
        """The path of every file by digest, for asking what was revoked."""
        return {digest: path for path, digest in self.files.items()} | {e.sha256: e.path for e in self.local}

    def refuse_revoked(self, store: Path, revocations: Revocations) -> None:
        """Raises Revoked where its bundle, a file of it or a chunk of one was revoked; ChunksUnknown."""
        check_revoked(revocations, self.bundle_id, self.digests)
        if revocations.digests:
            chunks = installed_chunks.digests(store, self.entries, self.lists)
            check_revoked(revocations, self.bundle_id, chunks)

    @property
    def local_ids(self) -> tuple[str, ...]:
        """The ids of the models made in this facility."""
        return tuple(sorted({entry.path.split("/")[1] for entry in self.local}))

    @property
    def entries(self) -> list[FileEntry]:
        """The files of the bundle as they were installed."""
        return [FileEntry(path, self.lengths[path], digest) for path, digest in self.files.items()]

    @property
    def command(self) -> Path:
        """The ``plugsky`` of this generation."""
        return self.path / "venv" / "bin" / "plugsky"


def facts(paths: SitePaths) -> SiteFacts:
    """What a plan needs to know of the site; makes nothing, works before the first installation."""
    nearest = next(path for path in (paths.root, *paths.root.parents) if path.is_dir())
    room = os.statvfs(nearest)
    found = complete(paths)
    try:
        pointed_to = current_number(paths)
    except MalformedMetadata:
        pointed_to = None
    return SiteFacts(
        store=transfer.held(paths.store),
        staged=staging.allocated(paths.staging),
        free_bytes=room.f_bavail * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else 1 << 32,
        next_generation=max(_complete_numbers(paths), default=0) + 1,
        installed={generation.bundle_id: generation.number for generation in found},
        python=".".join(platform.python_version_tuple()[:2]),
        machine=platform.machine(),
        current=pointed_to,
    )


def damaged(paths: SitePaths, number: int, entries: Mapping[str, FileEntry]) -> list[str]:
    """What generation ``number`` lacks of the bundle with these entries: files by presence and length, the Python.

    Costs one look per file; whoever doubts the bytes too reads the store with ``transfer.whole``.
    """
    folder = paths.generations / str(number)
    lacking = []
    for path, entry in entries.items():
        if not is_linked(path):
            continue
        try:
            length = (folder / path).lstat().st_size
        except OSError:
            length = -1
        if length != entry.length:
            lacking.append(path)
    if any(map(is_lock, entries)) and not (folder / "venv" / "bin" / "python").exists():
        lacking.append("venv")
    return lacking


def prepare(paths: SitePaths) -> None:
    """Make the directories that an installation writes to. Raises SiteExposed, SiteUnwritable or NoSpace."""
    check_own(paths)
    with unwritable(paths.root), out_of_space(paths.root):
        for folder in (paths.root, paths.generations, paths.store):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)


def make(verified: VerifiedBundle, plan: Plan, paths: SitePaths, *, progress: Progress = silent) -> Generation:
    """Carry out ``plan``: copy, make the generation, write ``.complete``. Does not activate it.

    A plan with nothing to make returns the generation that is already there. When the bundle or the disk turns out to
    be unfit, everything this call wrote is gone again; after an interruption, whole files stay for the next run.
    The caller holds the site's lock, here as for :func:`activate`. Children of an installation that was killed are
    waited for; raises Busy when they do not end.
    """
    prepare(paths)
    local = local_models.carried(paths, verified.state.revocations)
    local_models.check_names(local, verified.entries)
    with writers_lock(paths.generations) as held:
        clear_remains(paths)
        if plan.installed:
            shutil.rmtree(paths.staging, ignore_errors=True)
            return load(paths, plan.generation)
        if plan.generation != max(numbers(paths), default=0) + 1:
            raise SiteChanged(
                f"Generation {plan.generation} is not the next one", "the site changed since the plan", _AGAIN
            )
        brought = transfer.apply(plan, verified, paths.store, paths.staging, progress)
        folder = paths.generations / str(plan.generation)
        origin = Origin(
            verified.channel,
            verified.version,
            verified.bundle_id,
            verified.content_id,
            verified.root_fingerprint,
            plan.digest,
        )
        try:
            taken, on_media = evidence.choose(verified)
            here = [verified.entries[file.path] for file in plan.files]
            parts = Parts(
                tuple(FileEntry(entry.path, entry.length, entry.sha256) for entry in here),
                local,
                evidence.contents(verified, taken),
                plan.lock,
                elsewhere=_elsewhere(verified, plan),
                lists=installed_chunks.lists_of(here),
                on_media=on_media,
            )
            with unwritable(folder), out_of_space(folder):
                installed_chunks.keep(paths.store, here)
                assemble(paths, plan.generation, origin, parts, rfc3339(datetime.now(UTC)), held, progress)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, BundleError):
                transfer.withdraw(paths.store, brought)
            raise
        finally:
            shutil.rmtree(paths.staging, ignore_errors=True)
        return load(paths, plan.generation)


def activate(paths: SitePaths, number: int, *, revocations: Revocations) -> Generation:
    """Make generation ``number`` the current one, unless its bundle, a file of it or a chunk of one was revoked.

    ``revocations`` are those of the site's trust state, read under the lock. Expiry is not asked: what was installed in
    time keeps its place. Raises NotFound, Revoked or ChunksUnknown.
    """
    generation = load(paths, number)
    generation.refuse_revoked(paths.store, revocations)
    with unwritable(paths.current):
        new = paths.current.with_name(".current.new")
        new.unlink(missing_ok=True)
        new.symlink_to(Path(paths.generations.name) / str(number))
        new.replace(paths.current)
        sync_directory(paths.root)
    return generation


def complete(paths: SitePaths) -> list[Generation]:
    """Every complete generation whose provenance can be read, oldest first; :func:`unreadable` has the others."""
    found = []
    for number in _complete_numbers(paths):
        with suppress(MalformedMetadata):
            found.append(load(paths, number))
    return found


def unreadable(paths: SitePaths) -> dict[int, str]:
    """The complete generations whose provenance cannot be read, and why: they are damaged and must hide no other."""
    found = {}
    for number in _complete_numbers(paths):
        try:
            load(paths, number)
        except MalformedMetadata as error:
            found[number] = f"{error.what}: {error.why}"
    return found


def current(paths: SitePaths) -> Generation | None:
    """The generation that ``current`` points to; None before the first activation. Raises as :func:`load`."""
    number = current_number(paths)
    return None if number is None else load(paths, number)


def current_number(paths: SitePaths) -> int | None:
    """Where ``current`` points, whatever lies there; None before the first activation. Raises MalformedMetadata."""
    try:
        link = paths.current.readlink()
    except FileNotFoundError:
        return None
    except OSError:
        raise strict_json.malformed(f"{paths.current}", "it is no link to a generation") from None
    folder, _, number = str(link).rpartition("/")
    if folder != paths.generations.name or _NUMBER.fullmatch(number) is None:
        raise strict_json.malformed(f"The link {paths.current}", f"it points to {link}, which is no generation")
    return int(number)


def load(paths: SitePaths, number: int) -> Generation:
    """The complete generation of that number. Raises NotFound, or MalformedMetadata for a damaged one."""
    folder = paths.generations / str(number)
    if not is_complete(paths, number):
        raise NotFound(
            f"There is no generation {number} in {paths.root}",
            "it was never installed, or its installation was interrupted",
            "Run `plugsky bundle install`",
        )
    try:
        with (folder / PROVENANCE).open("rb") as file:
            content = file.read(MAX_PROVENANCE + 1)
    except FileNotFoundError:
        raise strict_json.malformed(f"{PROVENANCE} of generation {number}", "it is missing") from None
    except OSError as error:
        raise strict_json.malformed(f"{PROVENANCE} of generation {number}", f"{error.strerror}") from error
    values = strict_json.parse_object(content, f"{PROVENANCE} of generation {number}", limit=MAX_PROVENANCE)
    try:
        if values["schema"] != SCHEMA:
            raise strict_json.malformed(PROVENANCE, f"its schema is {values['schema']!r}")
        return Generation(
            number=number,
            path=folder,
            channel=values["channel"],
            version=values["version"],
            bundle_id=values["bundle_id"],
            content_id=values["content_id"],
            root_fingerprint=values["root_fingerprint"],
            installed_at=values["installed_at"],
            files={file["path"]: file["sha256"] for file in values["files"]},
            lengths={file["path"]: file["length"] for file in values["files"]},
            local=_entries(values.get("local", [])),
            elsewhere=_entries(values.get("elsewhere", [])),
            lists={file["path"]: file["chunks"] for file in values["files"] if "chunks" in file},
            on_media=_entries(values.get("on_media", [])),
        )
    except (KeyError, TypeError) as error:
        raise strict_json.malformed(PROVENANCE, f"{error} is missing or wrong") from None


def is_complete(paths: SitePaths, number: int) -> bool:
    """Whether generation ``number`` was made to its end. A link in its place is none, wherever it leads."""
    folder = paths.generations / str(number)
    return not folder.is_symlink() and (folder / COMPLETE).is_file()


def _complete_numbers(paths: SitePaths) -> list[int]:
    return [number for number in numbers(paths) if is_complete(paths, number)]


def _entries(listed: list[dict[str, Any]]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(file["path"], file["length"], file["sha256"]) for file in listed)


def _elsewhere(verified: VerifiedBundle, plan: Plan) -> tuple[FileEntry, ...]:
    """The files of the bundle that are for other hosts."""
    here = {file.path for file in plan.files}
    return tuple(entry for path, entry in sorted(verified.entries.items()) if path not in here)


def numbers(paths: SitePaths) -> list[int]:
    """Numbers of all generations, complete or not, in order."""
    if not paths.generations.is_dir():
        return []
    return sorted(int(path.name) for path in paths.generations.iterdir() if _NUMBER.fullmatch(path.name))


def clear_remains(paths: SitePaths) -> None:
    """Remove incomplete generations, and from staging all but the files that a transfer can go on from.

    The caller holds the site's lock and that of the writers. Raises SiteUnwritable.
    """
    with unwritable(paths.root):
        for number in numbers(paths):
            if not is_complete(paths, number):
                remove_generation(paths.generations, number)
        for path in paths.staging.iterdir() if paths.staging.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not staging.is_staged(path.name):
                path.unlink()


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Turn what the site's file system refuses (rights, a read-only mount, an I/O error) into SiteUnwritable."""
    try:
        yield
    except OSError as error:
        raise SiteUnwritable(
            f"{error.filename or path} could not be written", error.strerror or "unknown", "Check the file system"
        ) from error


_AGAIN: Final = "Run `plugsky bundle install` again"
