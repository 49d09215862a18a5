"""Copies a verified bundle to a medium, and reads the copy back from it.

In this order:
1. what the medium holds of it already, from a run that was cut short, is read back; what is right stays;
2. space, inodes and the largest file that the file system takes are compared with what is still to be written;
3. everything is written but the timestamp: each byte is read once from the source, hashed on its way, and synced. A
   wrong byte of the source ends the copy with the name of its blob and file, and is not left on the medium;
4. everything written is read back past the page cache (`readback`) and compared;
5. only then the timestamp is written, and read back too. A copy without it is not sealed, and nothing accepts it.

The source is only read. What lies in the bundle's directory and is not of this bundle is never overwritten or removed.
With a `spare`, a part that the source does not give right is taken from there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_bundles.atomic import open_fresh, out_of_space, sync_directory
from plugsky_bundles.errors import (
    BlobMissing,
    DigestMismatch,
    ExistsError,
    FileTooLarge,
    MediaUnreadable,
    MetadataMissing,
    NoSpace,
    NotFound,
    ReadBackMismatch,
    SiteUnwritable,
    UnlistedFile,
)
from plugsky_bundles.format import METADATA
from plugsky_bundles.listed_read import blocks
from plugsky_bundles.media import Bundle
from plugsky_bundles.media_order import Contents, Part
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.readback import IN_MEMORY, FileSystem, ReadBack, file_system, read_back
from plugsky_bundles.sizes import shortage, sizes

SEAL: Final = f"{METADATA}/timestamp.json"
DAMAGED: Final = (DigestMismatch, BlobMissing, MetadataMissing, UnlistedFile, MediaUnreadable)
"""What a source can be found to be, part by part."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A finished copy. Bytes: `written` now, `kept` because they were right. `spared` parts came from the spare."""

    path: Path
    parts: int
    written: int
    kept: int
    read_back: ReadBack
    file_system: str
    spared: tuple[str, ...]


def copy(
    sources: Sequence[Bundle], contents: Contents, parts: Iterable[Part], path: Path, progress: Progress = silent
) -> Copied:
    """Make `path` a directory with exactly `parts`, taken from the first of `sources` that has each of them right.

    `path` may hold some of them; its parent must be there. Raises what `blocks` does for a damaged source,
    ReadBackMismatch, NoSpace, FileTooLarge, NotFound, ExistsError or SiteUnwritable.
    """
    wanted = {part.name: part for part in parts}
    if not path.parent.is_dir():
        raise NotFound(f"{path.parent} is not there", "the copy would go into it", "Mount the stick, or make it")
    for source in sources:
        if source.path.is_dir() and path.resolve().is_relative_to(source.path.resolve()):
            raise ExistsError(
                f"{path} is the bundle itself, or inside it", "the source is never changed", "Name another place"
            )
    try:
        return _Copier(sources, contents, wanted, path, progress).run()
    except OSError as error:
        raise SiteUnwritable(
            f"{error.filename or path} could not be written", error.strerror or "unknown", "Check the medium"
        ) from error


class _Copier:
    """One copy; keeps count of its bytes."""

    def __init__(
        self, sources: Sequence[Bundle], contents: Contents, wanted: dict[str, Part], path: Path, progress: Progress
    ) -> None:
        self._sources, self._contents, self._wanted = sources, contents, wanted
        self._path, self._progress = path, progress
        self._done = self._total = 0
        self._stage = self._item = ""
        self._read = ReadBack()
        self._spared: list[str] = []

    def run(self) -> Copied:
        on = file_system(self._path.parent)
        self._in_memory = on.kind in IN_MEMORY
        there = present(self._path, self._wanted)
        right = self._right([part for name, part in self._wanted.items() if there.get(name) == part.length])
        todo = [part for name, part in self._wanted.items() if name not in right]
        check_room(self._path.parent, on, todo, {part.name: there[part.name] for part in todo if part.name in there})
        if todo and SEAL in there:
            (self._path / SEAL).unlink()
            sync_directory(self._path / METADATA)
            todo.extend(part for name, part in self._wanted.items() if name == SEAL and part not in todo)
        seal = [part for part in todo if part.name == SEAL]
        self._write([part for part in todo if part.name != SEAL])
        self._write(seal)
        written = sum(part.length for part in todo)
        return Copied(
            path=self._path,
            parts=len(self._wanted),
            written=written,
            kept=sum(part.length for part in self._wanted.values()) - written,
            read_back=self._read,
            file_system=on.kind,
            spared=tuple(self._spared),
        )

    def _right(self, parts: Sequence[Part]) -> set[str]:
        """Of the parts that are there with their length, those whose bytes are right."""
        self._begin("check", parts)
        return {part.name for part in parts if self._compare(part)}

    def _write(self, parts: Sequence[Part]) -> None:
        """Write parts, sync them and their directories, and only then read all of them back."""
        self._begin("copy", parts)
        with out_of_space(self._path):
            for part in parts:
                self._item = part.name
                self._copy(part)
            for folder in sorted({parent for part in parts for parent in (self._path / part.name).parents}):
                if folder == self._path.parent or self._path in (folder, *folder.parents):
                    sync_directory(folder)
        self._begin("read back", parts)
        for part in parts:
            if not self._compare(part):
                (self._path / SEAL).unlink(missing_ok=True)
                raise ReadBackMismatch(
                    f"{self._contents.whose(part.name)} is not on the medium as it was written",
                    "the medium gave back other bytes or none: it is worn out, or smaller than its label says",
                    "Use another medium",
                )

    def _copy(self, part: Part) -> None:
        """Write one part from the first source that has it right; a wrong one leaves nothing."""
        target = self._path / part.name
        target.parent.mkdir(parents=True, exist_ok=True)
        for number, source in enumerate(self._sources, start=1):
            done = self._done
            try:
                write_part(source, part, self._contents, target, self._moved)
            except DAMAGED:
                if number == len(self._sources):
                    raise
                self._done = done
                continue
            if number > 1:
                self._spared.append(part.name)
            return

    def _compare(self, part: Part) -> bool:
        """Whether the copy of `part` is right, as the medium gives it back. One that cannot be read is not."""
        self._item = part.name
        try:
            digest, how = read_back(self._path / part.name, self._moved, in_memory=self._in_memory)
        except OSError:
            return False
        self._read += how
        return digest == part.sha256

    def _begin(self, stage: str, parts: Collection[Part]) -> None:
        self._stage, self._done, self._total = stage, 0, sum(part.length for part in parts)

    def _moved(self, count: int) -> None:
        self._done += count
        self._progress(ProgressEvent(self._stage, self._done, self._total, self._contents.whose(self._item)))


def write_part(
    source: Bundle, part: Part, contents: Contents, target: Path, moved: Callable[[int], None] = lambda _: None
) -> None:
    """Write one part to `target` and sync it, comparing its bytes on their way; on any error `target` is removed."""
    descriptor = open_fresh(target)
    try:
        try:
            for block in blocks(source, part, contents):
                rest = block
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                moved(len(block))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def present(path: Path, wanted: Collection[str]) -> dict[str, int]:
    """The sizes of those of `wanted` that lie under `path`, which need not exist. Raises ExistsError for all else."""
    found: dict[str, int] = {}
    parents = {name[:cut] for name in wanted for cut, char in enumerate(name) if char == "/"}
    if not path.is_dir():
        if path.is_symlink() or path.exists():
            raise ExistsError(f"{path} is there already", "it is not a directory", "Name another place, or remove it")
        return found
    folders = [""]
    while folders:
        prefix = folders.pop()
        with os.scandir(path / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and name in wanted:
                    found[name] = status.st_size
                elif stat.S_ISDIR(status.st_mode) and name in parents:
                    folders.append(name + "/")
                else:
                    raise ExistsError(
                        f"{path} holds {name}, which is not of this bundle",
                        "a copy never overwrites or removes what it did not write",
                        "Name another place, or remove it",
                    )
    return found


def check_room(folder: Path, on: FileSystem, todo: Collection[Part], replaced: Mapping[str, int]) -> None:
    """Refuse, before the first write, what will not fit below `folder`. `replaced`: sizes of files written anew."""
    free = os.statvfs(folder)
    for part in todo:
        if on.largest_file is not None and part.length > on.largest_file:
            has, limit = sizes(part.length, on.largest_file)
            raise FileTooLarge(
                f"{part.name} is too large for {on.mount}",
                f"it has {has}, and {on.kind} takes at most {limit} in one file",
                "Use a medium with exFAT or ext4",
            )
    parents = {part.name[:cut] for part in todo for cut, char in enumerate(part.name) if char == "/"}
    unit = free.f_frsize
    need = sum(-(-part.length // unit) * unit for part in todo) + (len(parents) + 1) * unit
    have = free.f_bavail * unit + sum(size // unit * unit for size in replaced.values())
    if need > have:
        raise NoSpace(
            f"The bundle does not fit on {on.mount}",
            shortage(need, have, "there"),
            "Use a larger medium, or `plugsky bundle split` for several",
        )
    inodes = len(todo) + len(parents) + 1 - len(replaced)
    if free.f_files and inodes > free.f_favail:
        raise NoSpace(
            f"The bundle does not fit on {on.mount}",
            f"it needs {inodes} inodes there, {free.f_favail} are free",
            "Use another medium, or remove files from it",
        )
