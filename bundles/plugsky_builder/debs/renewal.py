"""Makes the locks of a recipe's Debian packages, or renews them: one small text file for each target.

A lock whose answer would stay the same is left alone, whatever happened to Debian's indexes meanwhile, so that renewing
often does not change a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from plugsky_builder.cache import Cache
from plugsky_builder.debs import lock, releases, state
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.debs.lock import DebLock
from plugsky_builder.debs.parts import read_status
from plugsky_builder.recipe import Recipe
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import NotFound, RecipeError
from plugsky_bundles.locks import locked
from plugsky_bundles.progress import Progress, ProgressEvent


@dataclass(frozen=True, slots=True)
class Renewed:
    """A lock after its renewal: its packages, the bytes of their archives, and what is new or gone as name=version."""

    target: str
    path: Path
    packages: int
    bytes: int
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed)


def renew(recipe: Recipe, cache: Path, *, now: datetime, progress: Progress) -> list[Renewed]:
    """Resolve the recipe's packages for each target against what the mirror has now, and write the locks.

    Nothing for a recipe without Debian packages.
    Raises NotFound, SourceError, SourceUnreachable, DigestMismatch or Busy.
    """
    debs = recipe.debs
    if debs is None:
        return []
    renewed = []
    store = Cache(cache)
    with locked(cache, f"The builder's cache {cache} is in use", "a build is running"):
        mirror = Mirror(store, releases.mirrors(debs), progress)
        for number, target in enumerate(recipe.targets):
            progress(ProgressEvent("lock", number, len(recipe.targets), target.folder))
            indexes = state.newest(target, mirror, now if debs.check_valid_until else None)
            made = state.make_lock(target, debs.packages, read_status(debs, target), indexes, mirror)
            renewed.append(_keep(made, debs.lock_of(target.folder)))
    progress(ProgressEvent("lock", len(recipe.targets), len(recipe.targets), ""))
    return renewed


def _keep(made: DebLock, path: Path) -> Renewed:
    """Write the lock, unless the one that lies there gives the same answer."""
    before = _present(path)
    if before is None or (before.question, before.debs) != (made.question, made.debs):
        if not path.parent.is_dir():
            raise NotFound(f"{path.parent} is not there", "the recipe puts its lock there", "Make that folder")
        write_file(path, lock.write(made).encode("ascii"))
    old = set() if before is None else {f"{deb.name}={deb.version}" for deb in before.debs}
    new = {f"{deb.name}={deb.version}" for deb in made.debs}
    return Renewed(
        made.target,
        path,
        len(made.debs),
        sum(deb.length for deb in made.debs),
        tuple(sorted(new - old)),
        tuple(sorted(old - new)),
    )


def _present(path: Path) -> DebLock | None:
    """The lock as it is; None where there is none, or none that can be read: then it is made anew."""
    try:
        return lock.read(path)
    except (NotFound, RecipeError):
        return None
