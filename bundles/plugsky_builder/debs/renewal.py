"""Makes the locks of a recipe's Debian packages, or renews them: one small text file for each target.

A lock whose answer would stay the same is left alone, whatever happened to Debian's indexes meanwhile, so that renewing
often does not change a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from plugsky_builder.cache import Cache
from plugsky_builder.debs import lock, releases, state
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.debs.lock import DebLock
from plugsky_builder.debs.parts import read_status
from plugsky_builder.debs.recipe_part import DebsRecipe
from plugsky_builder.targets import Target
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import NotFound, RecipeError
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


def renew(
    recipe: DebsRecipe, targets: Sequence[Target], cache: Cache, now: datetime, progress: Progress
) -> list[Renewed]:
    """Resolve the recipe's packages for each target against what the mirror has now, and write the locks.

    Raises NotFound, SourceError, SourceUnreachable, NotCached or DigestMismatch.
    """
    mirror = Mirror(cache, releases.mirrors(recipe), progress)
    renewed = []
    for number, target in enumerate(targets):
        progress(ProgressEvent("lock", number, len(targets), target.folder))
        path = recipe.lock_of(target.folder)
        indexes = state.newest(target, mirror, now if recipe.check_valid_until else None)
        made = state.make_lock(target, recipe.packages, read_status(recipe, target), indexes, mirror)
        before = _present(path)
        same = before is not None and (before.question, before.debs) == (made.question, made.debs)
        if not same:
            if not path.parent.is_dir():
                raise NotFound(f"{path.parent} is not there", "the recipe puts its lock there", "Make that folder")
            write_file(path, lock.write(made).encode("ascii"))
        old = set() if before is None else {f"{deb.name}={deb.version}" for deb in before.debs}
        new = {f"{deb.name}={deb.version}" for deb in made.debs}
        renewed.append(
            Renewed(
                target.folder,
                path,
                len(made.debs),
                sum(deb.length for deb in made.debs),
                tuple(sorted(new - old)),
                tuple(sorted(old - new)),
            )
        )
    progress(ProgressEvent("lock", len(targets), len(targets), ""))
    return renewed


def _present(path: Path) -> DebLock | None:
    """The lock as it is; None where there is none, or none that can be read: then it is made anew."""
    try:
        return lock.read(path)
    except (NotFound, RecipeError):
        return None
