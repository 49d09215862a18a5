"""Every generation of a site as a person wants to see it: which is current, which is good, and what each one takes.

Nothing here changes anything, and one that is damaged hides no other. **Own** bytes are those that would be free again
if this generation alone were gone; what other generations hold too is **shared**. Both are what the files occupy on
disk; a file with several names is counted once. Links are never followed.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, health, site_trust
from plugsky.fleet.generations import Generation
from plugsky.fleet.lock import is_served
from plugsky_bundles.errors import BundleError, ChunksUnknown, MalformedMetadata, Revoked
from plugsky_bundles.state import Revocations

BLOCK: Final = 512
"""Bytes of one ``st_blocks`` (stat(2))."""
State = Literal["good", "revoked", "failed", "damaged", "unfinished"]
Inode = tuple[int, int]


@dataclass(frozen=True)
class Listed:
    """One generation. ``state`` is ``revoked`` when the site knows something of it to be revoked, and ``failed`` after
    a health check it did not pass; ``problem`` says more.

    Of one whose provenance cannot be read, the fields from ``channel`` to ``installed_at`` are empty.
    """

    number: int
    current: bool
    served: bool
    state: State
    problem: str
    channel: str
    version: int
    bundle_id: str
    installed_at: str
    local: tuple[str, ...]
    own_bytes: int
    shared_bytes: int

    @property
    def called(self) -> str:
        """Its state in words."""
        state = {"good": "", "failed": "failed its health check"}.get(self.state, self.state)
        words = ["current" if self.current else "kept" if self.state == "good" else "", state]
        return ", ".join([word for word in words if word] + (["served"] if self.served and not self.current else []))


def survey(paths: SitePaths) -> tuple[Listed, ...]:
    """All generations by number. A ``current`` that points nowhere sensible marks none."""
    current, revocations = pointed_to(paths), _revocations(paths)
    numbers = generations.numbers(paths)
    known = {generation.number: generation for generation in generations.complete(paths)}
    taken = {number: _taken(paths, number, known.get(number)) for number in numbers}
    holders = Counter(inode for inodes in taken.values() for inode in inodes)
    listed = []
    for number in numbers:
        generation = known.get(number)
        state, problem = _state(paths, number, revocations)
        own = sum(size for inode, size in taken[number].items() if holders[inode] == 1)
        listed.append(
            Listed(
                number=number,
                current=number == current,
                served=is_served(paths.generations / str(number)),
                state=state,
                problem=problem,
                channel=generation.channel if generation else "",
                version=generation.version if generation else 0,
                bundle_id=generation.bundle_id if generation else "",
                installed_at=generation.installed_at if generation else "",
                local=generation.local_ids if generation else (),
                own_bytes=own,
                shared_bytes=sum(taken[number].values()) - own,
            )
        )
    return tuple(listed)


def pointed_to(paths: SitePaths) -> int | None:
    """The number that ``current`` names; None where it names none."""
    try:
        return generations.current_number(paths)
    except BundleError:
        return None


def tree(path: Path) -> Iterator[os.stat_result]:
    """Everything under a directory and the directory itself, without following a link. Nothing where it is none."""
    try:
        yield path.lstat()
        if path.is_symlink():
            return
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from tree(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return


def _revocations(paths: SitePaths) -> Revocations:
    """What the site knows to be revoked; nothing where what it believes is lost or damaged: then none is activated."""
    try:
        believed = site_trust.load(paths)
    except MalformedMetadata:
        return Revocations()
    return Revocations() if believed is None else believed.revocations


def _state(paths: SitePaths, number: int, revocations: Revocations) -> tuple[State, str]:
    if not generations.is_complete(paths, number):
        return "unfinished", "its installation was interrupted, or is still running"
    try:
        generation = generations.load(paths, number)
    except BundleError as error:
        return "damaged", f"{error.what}: {error.why}"
    try:
        generation.refuse_revoked(paths.store, revocations)
    except Revoked as error:
        return "revoked", f"{error.what}, so it cannot be activated: {error.why}"
    except ChunksUnknown as error:
        return "damaged", f"{error.what}: {error.why}"
    entries = {entry.path: entry for entry in (*generation.entries, *generation.local)}
    if lacking := generations.damaged(paths, number, entries):
        return "damaged", f"{len(lacking)} of its files are missing or have another length: {', '.join(lacking[:3])}"
    verdict = health.kept(generation.path)
    if verdict is not None and verdict.failed:
        return "failed", verdict.why
    return "good", ""


def _taken(paths: SitePaths, number: int, generation: Generation | None) -> dict[Inode, int]:
    """What a generation occupies by inode: its tree, and the files of the store that it was made from."""
    stats = list(tree(paths.generations / str(number)))
    for entry in (*generation.entries, *generation.local) if generation else ():
        try:
            stats.append((paths.store / f"sha256-{entry.sha256}").lstat())
        except FileNotFoundError:
            continue
    return {(stat.st_dev, stat.st_ino): stat.st_blocks * BLOCK for stat in stats}
