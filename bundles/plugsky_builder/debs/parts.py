"""The Debian parts of a bundle: for each target its packages in a signed flat repository, and the evidence for them.

```
debs/plugsky-archive-keyring.asc                   what apt shall trust, on every target
debs/<target>/Packages  Release  InRelease         the repository; a package's `custom` says what it is
debs/<target>/<name>_<version>_<arch>.deb
evidence/debs/<target>/<suite>.InRelease           Debian's signature …
evidence/debs/<target>/<suite>.Packages.xz         … the list that it vouches for, with each package's SHA-256 …
evidence/debs/<target>/packages.json               … and what was found inside: scripts, setuid files, diversions
evidence/debs/<target>/lock.txt
```

`custom.bootstrap` of a package is its stage in the set that a bare host needs (`recipe_part.ALWAYS`); see `order` and
`bootstrap_set`. Same recipe, same lock and same repository key: same files below `debs/`. The evidence may be newer.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_builder.cache import Cache
from plugsky_builder.debs import lint, lock, order, releases, repository, state
from plugsky_builder.debs.closure import VerifiedIndex
from plugsky_builder.debs.fetching import Mirror, Wanted
from plugsky_builder.debs.lint import Examined
from plugsky_builder.debs.lock import BARE, DebLock
from plugsky_builder.debs.openpgp import RepositoryKey
from plugsky_builder.debs.recipe_part import ALWAYS, DebsRecipe
from plugsky_builder.pack import Material
from plugsky_builder.targets import Target
from plugsky_bundles.errors import DigestMismatch, NotFound, RecipeError
from plugsky_bundles.format import FileEntry
from plugsky_bundles.progress import Progress, ProgressEvent

KEYRING_PATH: Final = "debs/plugsky-archive-keyring.asc"
LISTING, RELEASE, SIGNED_RELEASE = "Packages", "Release", "InRelease"
MAX_STATUS: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TargetDebs:
    """The Debian parts of one target, and the signed state of Debian that vouches for them."""

    target: Target
    lock: DebLock
    indexes: tuple[VerifiedIndex, ...]
    materials: tuple[Material, ...]
    evidence: tuple[Material, ...]


@dataclass(frozen=True, slots=True)
class DebParts:
    """Everything of a recipe's `[debs]`; the paths of `evidence` begin with `evidence/`."""

    mirror: Mirror
    targets: tuple[TargetDebs, ...]
    keyring: Material

    @property
    def materials(self) -> list[Material]:
        """What travels as targets of the bundle."""
        return [self.keyring, *(material for target in self.targets for material in target.materials)]

    @property
    def evidence(self) -> list[Material]:
        """What travels beside them, for a reviewer."""
        return [material for target in self.targets for material in target.evidence]


@dataclass(frozen=True, slots=True)
class BootstrapDeb:
    """One package that a bare host needs before the appliance; its `stage` says when dpkg takes it, see `order`."""

    stage: int
    path: str
    sha256: str
    length: int


def gather(
    recipe: DebsRecipe, targets: Sequence[Target], mirror: Mirror, key: RepositoryKey, progress: Progress
) -> DebParts:
    """Obtain, prove, examine and sign what the locks name.

    Raises NotFound for a lock that is not there, RecipeError for one that answers another question, SourceError,
    SourceUnreachable, NotCached, DigestMismatch, or what `RepositoryKey` raises.
    """
    found = tuple(_of_target(recipe, target, mirror, key, progress) for target in targets)
    return DebParts(mirror, found, Material.of_bytes(KEYRING_PATH, key.public()))


def bootstrap_set(entries: Iterable[FileEntry], folder: str) -> list[BootstrapDeb]:
    """The packages of a target without which a bare host cannot install, in an order that dpkg can take, by stage."""
    found = []
    for entry in entries:
        stage = entry.custom.get("bootstrap")
        if entry.path.startswith(f"debs/{folder}/") and isinstance(stage, list):
            found.append((stage, BootstrapDeb(stage[0], entry.path, entry.sha256, entry.length)))
    return [deb for _, deb in sorted(found, key=lambda item: item[0])]


def missing(recipe: DebsRecipe, target: Target, cache: Cache) -> int:
    """How many files a build of the target's Debian parts would have to fetch. Raises as `lock.read` does."""
    pinned = lock.read(recipe.lock_of(target.folder))
    lacks = sum(not cache.has(deb.sha256) for deb in pinned.debs)
    return lacks + (0 if state.cached(pinned, cache) is not None else 2 * len(pinned.suites))


def read_status(recipe: DebsRecipe, target: Target) -> bytes | None:
    """The package status that the recipe names for a target, None for a bare host. Raises NotFound or RecipeError."""
    path = recipe.status_of(target.folder)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            status = file.read(MAX_STATUS + 1)
    except OSError as error:
        raise NotFound(
            f"The package status {path} cannot be read",
            error.strerror or "it cannot be opened",
            "Copy the target's /var/lib/dpkg/status there",
        ) from error
    if len(status) > MAX_STATUS:
        raise RecipeError(
            f"{path.name} cannot be used", f"it is longer than {MAX_STATUS} bytes", "Is it a package status?"
        )
    return status


def _of_target(
    recipe: DebsRecipe, target: Target, mirror: Mirror, key: RepositoryKey, progress: Progress
) -> TargetDebs:
    release = releases.release_of(target.os)
    pinned = lock.read(recipe.lock_of(target.folder))
    _check_question(pinned, recipe, target)
    indexes = state.of_lock(pinned, target, mirror)
    proven = state.prove(pinned.debs, indexes)
    mirror.obtain([Wanted(deb.sha256, deb.length, deb.path) for deb in pinned.debs])
    examined = []
    for number, deb in enumerate(pinned.debs):
        progress(ProgressEvent("check", number, len(pinned.debs), deb.file))
        path = mirror.cache.file(deb.sha256)
        _check_bytes(mirror, path, deb.sha256, deb.file)
        examined.append(lint.examine(deb, path, target.arch))
    folder = f"debs/{target.folder}"
    listing = repository.packages(examined)
    text = repository.release(
        listing, target=target.folder, codename=release.codename, arch=target.arch, date=pinned.date
    )
    facts = {"os": target.os, "arch": target.arch, "packages": list(pinned.packages)}
    places = _bootstrap_places(examined)
    materials = [
        *(_deb_material(folder, item, places.get(item.package.name)) for item in examined),
        Material.of_bytes(f"{folder}/{LISTING}", listing, facts),
        Material.of_bytes(f"{folder}/{RELEASE}", text),
        Material.of_bytes(f"{folder}/{SIGNED_RELEASE}", _signed(text, pinned, mirror, key)),
    ]
    notes = f"evidence/{folder}"
    evidence = [
        Material.of_bytes(f"{notes}/packages.json", lint.report(target.folder, examined, proven)),
        Material.of_bytes(f"{notes}/lock.txt", lock.write(pinned).encode("ascii")),
    ]
    for index in indexes:
        signed = index.signed
        if signed.suite in proven.values():
            evidence += [
                Material.of_bytes(f"{notes}/{signed.suite}.InRelease", index.inrelease),
                Material(f"{notes}/{signed.suite}.Packages.xz", index.path, signed.index_length, signed.index_sha256),
            ]
    return TargetDebs(target, pinned, tuple(indexes), tuple(materials), tuple(evidence))


def _check_question(pinned: DebLock, recipe: DebsRecipe, target: Target) -> None:
    status = read_status(recipe, target)
    digest = BARE if status is None else hashlib.sha256(status).hexdigest()
    asked = (target.folder, recipe.packages, digest, releases.release_of(target.os).suites)
    answers = (*pinned.question, tuple(suite.suite for suite in pinned.suites))
    if answers != asked:
        words = ("target", "packages", "status", "suites")
        changed = [word for word, locked, wanted in zip(words, answers, asked, strict=True) if locked != wanted]
        raise RecipeError(
            f"The lock {recipe.lock_of(target.folder).name} does not answer this recipe",
            f"what it says of {' and '.join(changed)} is not what the recipe asks for",
            "Run `plugsky bundle lock` on the recipe and look at what changes",
        )


def _check_bytes(mirror: Mirror, path: Path, wanted: str, name: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        mirror.cache.discard(wanted)
        raise DigestMismatch(
            f"{name} is not what its lock pins", f"the cache held SHA-256 {found}, not {wanted}", "Run it again"
        )


def _bootstrap_places(examined: Sequence[Examined]) -> dict[str, list[int]]:
    """Stage and place of each package in the closure of what always travels, by name."""
    fields = {item.package.name: item.deb.control for item in examined}
    stages = order.stages(order.closure(ALWAYS, fields))
    return {name: [stage, place] for stage, names in enumerate(stages) for place, name in enumerate(names)}


def _deb_material(folder: str, item: Examined, place: list[int] | None) -> Material:
    package = item.package
    custom = {"name": package.name, "version": package.version, "architecture": package.architecture}
    return Material(
        f"{folder}/{package.file}",
        item.path,
        package.length,
        package.sha256,
        None,
        {**custom, **({} if place is None else {"bootstrap": place})},
    )


def _signed(text: bytes, pinned: DebLock, mirror: Mirror, key: RepositoryKey) -> bytes:
    """The signed release; the cache remembers one, so that building the same again needs no passphrase."""
    cache = mirror.cache
    note = f"debs-signed-{hashlib.sha256(text + key.public()).hexdigest()}"
    known = cache.note(note)
    if isinstance(known, str) and cache.has(known):
        with cache.file(known).open("rb") as file:
            signed = file.read(2 * len(text) + 4096)
        if hashlib.sha256(signed).hexdigest() == known and text in signed:
            return signed
    signed = key.clearsign(text, pinned.date)
    digest = hashlib.sha256(signed).hexdigest()
    cache.receive(io.BytesIO(signed), digest, len(signed), "the signed repository", lambda _: None)
    cache.keep_note(note, digest)
    return signed
