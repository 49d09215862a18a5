"""Removing generations that nobody needs, and from the store what no generation that stays has a use for.

Kept are the current generation, any that a process runs from, and the newest good ones; everything else goes: older
ones, revoked and damaged ones, those that failed their health check, the remains of interrupted installations. From the
store go the files that no kept generation lists and no model made in this facility is, and chunk indexes without their
file.

A :class:`Plan` is worked out, shown and asked about, then exactly it is carried out: where the site changed meanwhile,
it is refused. The order lets a kill at any point leave a working site, and the same command finish the work: the trail
has its record first; a generation loses its ``.complete`` before anything else, so that half of one is never taken for
a whole one; its files follow, then those of the store. No link is followed on the way (:mod:`plugsky.fleet.removal`).
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.audit import events
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, local_models
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky.fleet.lock import site_lock, writers_lock
from plugsky.fleet.removal import remove_file, remove_generation
from plugsky.fleet.survey import BLOCK, Listed, survey, tree
from plugsky.fleet.switching import Trail
from plugsky_bundles.errors import InstallError, SiteChanged
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.store_index import STORED

KEEP: Final = 2
INDEX: Final = ".chunks"


@dataclass(frozen=True)
class Plan:
    """``gone`` and ``kept`` are generations by number, ``store`` the names of files of the store that go.

    ``freed_bytes`` is what the file system really gets back: a file that keeps a name elsewhere frees nothing.
    """

    kept: tuple[int, ...]
    gone: tuple[Listed, ...]
    store: tuple[str, ...]
    freed_bytes: int

    @property
    def decision(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
        """What stays and what goes, without how large it is."""
        return self.kept, tuple(one.number for one in self.gone), self.store

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remove."""
        return not self.gone and not self.store


def plan(paths: SitePaths, keep: int = KEEP) -> Plan:
    """What pruning to the newest ``keep`` good generations would remove. Nothing is changed.

    Raises InstallError where a generation that stays is damaged beyond knowing what it needs of the store.
    """
    listed = survey(paths)
    good = [one.number for one in listed if one.state == "good"][-keep:] if keep else []
    kept = [one for one in listed if one.current or one.served or one.number in good]
    gone = tuple(one for one in listed if one not in kept)
    wanted = set(local_models.digests(paths))
    for one in kept:
        if one.state == "unfinished" or not one.bundle_id:
            raise InstallError(
                f"Generation {one.number} stays, and what it needs cannot be known",
                one.problem,
                "Install its bundle again, then prune",
            )
        wanted.update(generations.load(paths, one.number).digests)
    store = _unwanted(paths.store, wanted)
    going = [stat for one in gone for stat in tree(paths.generations / str(one.number))]
    going += [(paths.store / name).lstat() for name in store]
    return Plan(tuple(one.number for one in kept), gone, store, _freed(going))


def prune(paths: SitePaths, shown: Plan, keep: int, trail: Trail, actor: str, *, progress: Progress = silent) -> None:
    """Carry out exactly the plan that was ``shown``, made with this ``keep``.

    Raises Busy when someone else changes the site, SiteChanged when the plan is another one now, SiteUnwritable.
    """
    with sigterm_interrupts(), site_lock(paths.root), writers_lock(paths.generations):
        now = plan(paths, keep)
        if now.decision != shown.decision:
            raise SiteChanged("The plan must be made again", "the site changed since it was shown", "Run it again")
        numbers = [one.number for one in shown.gone]
        with trail() as log:
            log.record(
                *events.generation_prune(
                    actor, generations=numbers, files=len(shown.store), freed_bytes=now.freed_bytes
                )
            )
        total = len(shown.gone) + len(shown.store)
        for done, number in enumerate(numbers):
            progress(ProgressEvent("prune", done, total, f"generation {number}"))
            with generations.unwritable(paths.generations):
                remove_generation(paths.generations, number)
        for done, name in enumerate(shown.store, len(numbers)):
            progress(ProgressEvent("prune", done, total, name))
            with generations.unwritable(paths.store):
                remove_file(paths.store, name)
        progress(ProgressEvent("prune", total, total))


def _unwanted(store: Path, wanted: Iterable[str]) -> tuple[str, ...]:
    """The files of the store, and indexes of files, that none of the ``wanted`` digests name."""
    names = {f"sha256-{digest}" for digest in wanted}
    found = sorted(path.name for path in store.iterdir()) if store.is_dir() else []
    return tuple(
        name for name in found if STORED.fullmatch(name.removesuffix(INDEX)) and name.removesuffix(INDEX) not in names
    )


def _freed(going: Iterable[os.stat_result]) -> int:
    """Bytes of the inodes that lose their last name; a directory has one name and a count of its own."""
    stats = list(going)
    names = Counter((stat.st_dev, stat.st_ino) for stat in stats)
    sizes = {
        (stat.st_dev, stat.st_ino): stat.st_blocks * BLOCK
        for stat in stats
        if _is_directory(stat) or stat.st_nlink == names[stat.st_dev, stat.st_ino]
    }
    return sum(sizes.values())


def _is_directory(stat: os.stat_result) -> bool:
    return (stat.st_mode & 0o170000) == 0o040000
