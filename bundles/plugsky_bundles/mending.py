"""Repairs a damaged copy of a bundle from another copy, which may be damaged elsewhere.

1. The metadata is verified. Either copy may have the right bytes of a file in `metadata/`: one that another file names
   by its hash is chosen by that; for roots and timestamp both copies are tried, the damaged one first. A copy that
   shares no sealed metadata with what verified is one of another bundle, and is left alone.
2. Every byte of the damaged copy is read once. What is wrong, missing or of the wrong size is known then.
3. Each such part, and no other, is read from the other copy, compared, written beside its place, synced, read back past
   the page cache and renamed: at any moment the copy is no worse than before. Good parts are never touched.
4. What no signed list names is reported, and removed only if that was asked for. A link or device in the place of a
   part is replaced by it.

Parts that neither copy has right are `NotRepaired`, after all others were repaired.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader
from itertools import product
from pathlib import Path
from typing import Final

from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.carrying import DAMAGED, write_part
from plugsky_bundles.errors import (
    BundleError,
    NotFound,
    NotRepaired,
    ReadBackMismatch,
    SiteUnwritable,
    UnlistedFile,
    VerificationError,
)
from plugsky_bundles.format import MAX_TARGETS_METADATA, METADATA
from plugsky_bundles.listed_read import blocks
from plugsky_bundles.media import Bundle
from plugsky_bundles.media_directory import MAX_DEPTH, MAX_FILES, Directory, missing, open_bundle
from plugsky_bundles.media_order import Contents, Part
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.readback import IN_MEMORY, file_system, read_back
from plugsky_bundles.verified import VerifiedBundle

Verify = Callable[[Bundle], VerifiedBundle]
"""`verify_metadata` with its anchor and clock."""
PART: Final = ".part"
TIMESTAMP: Final = f"{METADATA}/timestamp.json"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done: the parts that were `mended`, and what was not listed and is `removed`."""

    path: Path
    bundle_id: str
    mended: tuple[str, ...]
    removed: tuple[str, ...]


def survey(path: Path) -> tuple[Directory, frozenset[str]]:
    """A copy as it lies there, however damaged, and the names of what is neither file nor directory in it."""
    files: dict[str, int] = {}
    folders: set[str] = set()
    odd: set[str] = set()
    ahead = [""]
    try:
        while ahead:
            prefix = ahead.pop()
            with os.scandir(path / prefix) as entries:
                for entry in entries:
                    name, mode = prefix + entry.name, entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(mode.st_mode):
                        files[name] = mode.st_size
                    elif stat.S_ISDIR(mode.st_mode) and name.count("/") < MAX_DEPTH:
                        folders.add(name)
                        ahead.append(name + "/")
                    else:
                        odd.add(name)
                    if len(files) + len(folders) + len(odd) > MAX_FILES:
                        raise UnlistedFile(f"{path} holds too many files", f"more than {MAX_FILES}", "Copy it again")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no bundle at {path}", "it is not a directory", "Check the path") from None
    return Directory(path, files, frozenset(folders)), frozenset(odd)


def verify_either(bad: Directory, good: Directory, verify: Verify) -> VerifiedBundle:
    """The metadata of the damaged copy, with the other copy's files where its own are wrong.

    Raises the error of the damaged copy's own metadata when nothing verifies, and NotRepaired for another bundle's.
    """
    first: VerificationError | None = None
    for roots, timestamp in product(((bad, good), (good, bad), (bad,), (good,)), ((bad, good), (good, bad))):
        try:
            verified = verify(_Either(bad, good, roots, timestamp))
        except VerificationError as error:
            first = first or error
            continue
        sealed = [(n, f) for n, f in verified.contents.metadata.items() if not n.endswith(".root.json")]
        if not any(_bytes_of(bad, name, file.sha256) is not None for name, file in sealed):
            raise NotRepaired(
                f"{bad.path} is not a copy of this bundle",
                f"none of its metadata is that of bundle {verified.bundle_id}",
                f"Copy the bundle: plugsky bundle copy {good.path}",
            )
        return verified
    raise first or missing(TIMESTAMP)


def repair(
    path: Path, other: Path, verify: Verify, *, remove_unlisted: bool = False, progress: Progress = silent
) -> Repaired:
    """Make the copy at `path` right again with parts from `other`.

    Raises NotRepaired, UnlistedFile (something unlisted remains), NotFound, SiteUnwritable, NoSpace or what `verify`
    raises; whatever it raises, what was mended before stays mended.
    """
    bad, odd = survey(path)
    good, _ = survey(other)
    verified = verify_either(bad, good, verify)
    contents = verified.contents
    wrong = list(_wrong(bad, contents, progress))
    try:
        lost = _mend(wrong, contents, path, good, odd, progress)
        removed = _unlisted(path, contents, remove=remove_unlisted)
    except OSError as error:
        raise SiteUnwritable(
            f"{error.filename or path} could not be written",
            error.strerror or "unknown",
            "Make the medium writable, or have a whole copy made elsewhere with --to",
        ) from error
    if lost:
        raise NotRepaired(
            f"{len(lost)} of {len(wrong)} damaged parts could not be repaired",
            f"{other} does not have them right either: {', '.join(lost)}",
            "Repair it once more from a third copy",
        )
    if removed and not remove_unlisted:
        raise UnlistedFile(
            f"{path} holds what no signed list names",
            f"{', '.join(removed)}; everything listed is right now",
            "Remove it, or run this again with --remove-unlisted",
        )
    verify(open_bundle(path))
    return Repaired(path, verified.bundle_id, tuple(contents.whose(part.name) for part in wrong), tuple(removed))


def _wrong(bad: Directory, contents: Contents, progress: Progress) -> Iterable[Part]:
    """The parts that a full read finds damaged."""
    total, done = sum(part.length for part in contents.parts), 0
    for part in contents.parts:
        try:
            for _ in blocks(bad, part, contents):
                pass
        except DAMAGED:
            yield part
        done += part.length
        progress(ProgressEvent("verify", done, total, contents.whose(part.name)))


def _mend(
    wrong: list[Part], contents: Contents, path: Path, good: Directory, odd: frozenset[str], progress: Progress
) -> list[str]:
    """Replace the wrong parts; returns those that the other copy does not have right."""
    lost: list[str] = []
    in_memory = file_system(path).kind in IN_MEMORY
    for part in wrong:
        odd -= _clear_way(path, part.name, odd)
    for done, part in enumerate(wrong, start=1):
        target = path / part.name
        beside = target.with_name(target.name + PART)
        with out_of_space(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_part(good, part, contents, beside)
            except DAMAGED:
                lost.append(contents.whose(part.name))
                continue
            digest, _ = read_back(beside, lambda _: None, in_memory=in_memory)
            if digest != part.sha256:
                beside.unlink()
                raise ReadBackMismatch(
                    f"{contents.whose(part.name)} is not on the medium as it was written",
                    "the medium gave back other bytes: it is worn out, or smaller than its label says",
                    "Use another medium: `plugsky bundle repair` with --to",
                )
            beside.replace(target)
            sync_directory(target.parent)
        progress(ProgressEvent("repair", done, len(wrong), contents.whose(part.name)))
    return lost


def _clear_way(path: Path, name: str, odd: frozenset[str]) -> set[str]:
    """Remove what is neither file nor directory where a part or one of its directories belongs; returns what it was."""
    places = {*(name[:cut] for cut, char in enumerate(name) if char == "/"), name} & odd
    for place in places:
        (path / place).unlink()
    return places


def _unlisted(path: Path, contents: Contents, *, remove: bool) -> list[str]:
    """What no list names, deepest first; removed if asked, and what an interrupted repair left in any case."""
    copy, odd = survey(path)
    listed = {part.name for part in contents.parts}
    parents = {name[:cut] for name in listed for cut, char in enumerate(name) if char == "/"}
    found = []
    for name in sorted({*copy.files, *odd} - listed):
        ours = name.endswith(PART) and name.removesuffix(PART) in listed
        if ours or remove:
            (path / name).unlink()
        if not ours:
            found.append(name)
    for name in sorted(copy.directories - parents, reverse=True):
        if remove:
            (path / name).rmdir()
        found.append(name)
    return found


def _bytes_of(copy: Directory, name: str, sha256: str | None) -> bytes | None:
    """A small file of a copy, if it can be read and has this digest (any, for None)."""
    if name not in copy.files:
        return None
    try:
        data = copy.read(name, limit=MAX_TARGETS_METADATA)
    except BundleError:
        return None
    return data if sha256 in (None, hashlib.sha256(data).hexdigest()) else None


class _Either:
    """Two copies as one bundle to be verified; `roots` and `timestamp` say whose come first, or are taken at all."""

    def __init__(
        self, bad: Directory, good: Directory, roots: tuple[Directory, ...], timestamp: tuple[Directory, ...]
    ) -> None:
        self.path = bad.path
        self._copies = (bad, good)
        self._held: dict[str, bytes] = {}
        names = {name for copy in self._copies for name in copy.files if name.startswith(f"{METADATA}/")}
        self._choose(sorted(name for name in names if name.endswith(".root.json")), roots, None)
        self._choose([TIMESTAMP], timestamp, None)
        self._choose(sorted(name for name in names if name.endswith(".snapshot.json")), self._copies, "timestamp")
        self._choose(sorted(names - self._held.keys()), self._copies, "snapshot")

    def _choose(self, names: Iterable[str], copies: tuple[Directory, ...], parent: str | None) -> None:
        """Hold the first copy's bytes of each name; with a `parent`, only bytes whose hash is written in that one."""
        above = b"".join(data for name, data in self._held.items() if parent and f"{parent}.json" in name)
        for name in names:
            for copy in copies:
                data = _bytes_of(copy, name, None)
                if data is not None and (parent is None or hashlib.sha256(data).hexdigest().encode() in above):
                    self._held.setdefault(name, data)

    @property
    def files(self) -> dict[str, int]:
        return {name: len(data) for name, data in self._held.items()}

    @property
    def sealed(self) -> bool:
        return TIMESTAMP in self._held

    def open(self, name: str) -> BufferedReader:
        """A blob, from the copy whose bytes have the digest in its name."""
        for copy in self._copies:
            if name in copy.files and _digest(copy, name) == name.rpartition("sha256-")[2]:
                return copy.open(name)
        raise missing(name)

    def read(self, name: str, *, limit: int) -> bytes:
        if name.startswith(f"{METADATA}/"):
            if name not in self._held:
                raise missing(name)
            return self._held[name][: limit + 1]
        with self.open(name) as file:
            return file.read(limit + 1)

    def check_set(self, contents: Contents) -> str:
        """Nothing: what lies there is read byte by byte later."""
        del contents
        return "the names on the media are compared while every byte is read"

    def check_end(self) -> None:
        """Nothing follows."""


def _digest(copy: Directory, name: str) -> str:
    try:
        with copy.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, BundleError):
        return ""
