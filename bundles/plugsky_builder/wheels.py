"""The Python parts of a bundle: one wheel per locked package that a target needs, and the lock that travels.

* Which packages apply is decided by the target's markers (`resolve`), which wheel of each by its tags; without a target
  both are those of the build machine.
* Packages on the index come by pip, with the machine's own mirrors; the answer is remembered under the exact question.
* Packages named `compiled` in the recipe come from the wheelhouse (`compiled`), those named `sdists` are compiled from
  the index (`sdists`); the version must be the locked one, and the hash of that very wheel is what travels.
* Each wheel is read strictly (`wheel_lint`), no two may install one file, and together they must be complete.
* The travelling lock names every wheel with its one hash, sorted, so that equal parts give equal bytes.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugsky_builder import build_tools, compiled, locks, own_wheel, pip_download, resolve, sdists, wheel_lint
from plugsky_builder.cache import Cache
from plugsky_builder.fit import Fit, fit_of
from plugsky_builder.locks import Pin, normalised
from plugsky_builder.recipe import PythonRecipe
from plugsky_builder.targets import Target
from plugsky_builder.wheel_lint import WheelReport
from plugsky_bundles.errors import DigestMismatch, SourceError
from plugsky_bundles.progress import Progress, ProgressEvent


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file; `unpacked` is the sum of its `members` in bytes.

    `programs` and `startup` are what it puts among the programs and what runs whenever Python starts.
    """

    file: str
    path: Path
    sha256: str
    length: int
    unpacked: int
    members: int
    programs: tuple[str, ...] = ()
    startup: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What travels beside it, for the plan of an installation and for reviewers."""
        known: dict[str, Any] = {"unpacked": self.unpacked, "members": self.members}
        lists = {"programs": self.programs, "startup": self.startup}
        return known | {name: list(values) for name, values in lists.items() if values}

    @property
    def pin(self) -> str:
        name, version = self.file.split("-")[:2]
        return f"{normalised(name)}=={version} --hash=sha256:{self.sha256}"


def appliance(recipe: PythonRecipe, wheelhouse: Path, cache: Cache, progress: Progress) -> Path | None:
    """The appliance's own wheel, the same for every target; None where the recipe does without."""
    if not recipe.appliance:
        return None
    progress(ProgressEvent("fetch", 0, 1, "the appliance's own wheel"))
    return own_wheel.build(cache.work("appliance"), wheelhouse)


def gather(
    recipe: PythonRecipe,
    wheelhouse: Path,
    cache: Cache,
    progress: Progress,
    target: Target | None = None,
    own: Path | None = None,
) -> list[Wheel]:
    """Every wheel of the recipe for `target`, and the appliance's `own`, sorted by file name.

    Raises RecipeError for locks that do not fit, WheelError for a wheel that cannot be trusted, SourceError and its
    kinds, DigestMismatch or NoSpace; NotCached without a network.
    """
    fit = fit_of(target)
    pins = resolve.pins(recipe, fit)
    _check_named(recipe, pins)
    local = {normalised(name) for name in (*recipe.compiled, *recipe.sdists)}
    found = _from_index([pin for pin in pins if pin.name not in local], fit, cache, progress)
    reports = {file: wheel_lint.lint(path, file, fit.tags) for file, path in found.items()}
    tools = build_tools.of(recipe)
    for pin in pins:
        if pin.name in local:
            if pin.name in {normalised(name) for name in recipe.sdists}:
                path, file = sdists.obtain(pin, tools, fit, cache, progress)
            else:
                path = compiled.find(pin, wheelhouse, fit)
                file = path.name
            found[file], reports[file] = path, wheel_lint.lint(path, file, fit.compiled_tags)
            compiled.check(path, file, reports[file], fit)
    if own is not None:
        found[own.name], reports[own.name] = own, wheel_lint.lint(own, own.name, fit.tags)
    wheel_lint.check_apart(reports.items())
    resolve.check(recipe, reports.values(), fit)
    return [_describe(file, found[file], reports[file]) for file in sorted(found)]


def travelling_lock(wheels: Iterable[Wheel]) -> bytes:
    """The lock of exactly these wheels."""
    return "".join(f"{line}\n" for line in sorted(wheel.pin for wheel in wheels)).encode("ascii")


def target_facts() -> dict[str, str]:
    """The Python and machine that the wheels are for where the recipe names no target: the build machine's."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), "machine": platform.machine()}


def missing(recipe: PythonRecipe, cache: Cache, target: Target | None) -> list[str]:
    """What `gather` would have to fetch for `target`, for people; nothing when the cache is enough."""
    fit = fit_of(target)
    pins = resolve.pins(recipe, fit)
    sources = {normalised(name) for name in recipe.sdists}
    local = sources | {normalised(name) for name in recipe.compiled}
    tools = build_tools.of(recipe)
    unmade = [pin for pin in pins if pin.name in sources and not sdists.is_cached(pin, tools, cache)]
    lacks = [f"{pin.name} {pin.version}" for pin in unmade]
    indexed = [pin for pin in pins if pin.name not in local]
    if indexed and _remembered(indexed, fit, cache) is None:
        lacks.append(f"{len(indexed)} wheels for {fit.name}")
    return lacks


def _check_named(recipe: PythonRecipe, pins: Iterable[Pin]) -> None:
    """Packages that the recipe singles out must be in a lock, if not for this target then for another."""
    known = {pin.name for pin in pins} | {pin.name for pin in locks.read(recipe.lock)}
    missing = {normalised(name) for name in (*recipe.compiled, *recipe.sdists)} - known
    if missing:
        raise SourceError(f"{', '.join(sorted(missing))} is not in the lock", "the recipe lists it", "Update the lock")


def _question(pins: list[Pin], fit: Fit) -> tuple[str, str]:
    """The requirement lines for pip, and the name under which its answer is kept."""
    text = "".join(f"{pin.line()}\n" for pin in pins)
    digest = hashlib.sha256(f"{fit.question}\n{text}".encode()).hexdigest()
    return text, f"python-{digest[:16]}"


def _remembered(pins: list[Pin], fit: Fit, cache: Cache) -> dict[str, str] | None:
    """The wheels that an earlier build got for the same question, digests by name, when all are still cached."""
    known: dict[str, str] | None = cache.note(_question(pins, fit)[1])
    if known is None:
        return None
    damaged = [digest for digest in known.values() if not cache.is_sound(digest)]
    return None if damaged else known


def _from_index(pins: list[Pin], fit: Fit, cache: Cache, progress: Progress) -> dict[str, Path]:
    """The wheels that pip picks for these pins, by file name; each is one that its lock allows."""
    if not pins:
        return {}
    known = _remembered(pins, fit, cache)
    text, key = _question(pins, fit)
    if known is None:
        cache.going_out(f"The wheels for {fit.name}")
        allowed = {digest for pin in pins for digest in pin.hashes}
        folder = cache.work(key)
        pip_download.download(text, folder, expected=len(pins), progress=progress, options=fit.options)
        known = {}
        for path in sorted(folder.glob("*.whl")):
            known[path.name] = cache.adopt(path)
            if known[path.name] not in allowed:
                raise DigestMismatch(f"{path.name} is not what the lock pins", "its SHA-256 differs", "Run it again")
        cache.keep_note(key, known)
        cache.drop_work(key)
    return {name: cache.file(digest) for name, digest in known.items()}


def _describe(file: str, path: Path, report: WheelReport) -> Wheel:
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    length = path.stat().st_size
    return Wheel(file, path, sha256, length, report.unpacked, report.members, report.programs, report.startup)
