"""Which packages a target gets: the pins of its locks that apply there, and the proof that nothing is missing.

A lock is data for review, made once; a build never resolves. `pins` takes the universal lock of the recipe, drops what
its markers exclude on the target, and adds the target's own lock of each requirements file. `check` then reads what
the wheels themselves require (core metadata, Requires-Dist and Requires-Python) and refuses a lock that drifted: one
that lacks a package which the target needs, or has a version that another package or the recipe rules out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from plugsky_builder import locks
from plugsky_builder.fit import Fit
from plugsky_builder.locks import Pin
from plugsky_builder.recipe import PythonRecipe
from plugsky_builder.targets import Target
from plugsky_builder.wheel_lint import WheelReport
from plugsky_bundles.errors import NotFound, RecipeError

MAX_REQUIREMENTS: Final = 1024 * 1024
RELOCK: Final = "Make the locks again with `plugsky bundle lock RECIPE`, or `make lock` for Plugsky's own"


def lock_of(requirements: Path, target: Target) -> Path:
    """Where the lock of a requirements file for `target` lies: beside it."""
    return requirements.with_name(f"{requirements.stem}.{target.folder}.txt")


def pins(recipe: PythonRecipe, fit: Fit) -> tuple[Pin, ...]:
    """Every package that applies, once, by name. Raises NotFound or RecipeError."""
    found: dict[str, Pin] = {}
    files = [recipe.lock]
    if fit.target is not None:
        files += [lock_of(path, fit.target) for path in recipe.requirements]
    for path in files:
        for pin in locks.read(path):
            if not pin.applies(fit.environment):
                continue
            other = found.get(pin.name)
            if other is not None and other.version != pin.version:
                raise drift(fit, f"{path.name} has {pin.name} {pin.version}, another lock has {other.version}")
            hashes = pin.hashes if other is None else tuple(dict.fromkeys((*other.hashes, *pin.hashes)))
            found[pin.name] = Pin(pin.name, pin.version, "", hashes)
    return tuple(found[name] for name in sorted(found))


def wanted(path: Path) -> tuple[Requirement, ...]:
    """The requirements in the file at `path`: one a line, no options, no addresses. Raises NotFound or RecipeError."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_REQUIREMENTS)
    except OSError as error:
        why = error.strerror or "it cannot be opened"
        raise NotFound(f"The requirements {path} cannot be read", why, "Check the path in the recipe") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path.name} cannot be used", "it is not UTF-8", "Correct it") from error
    found = []
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            requirement = Requirement(content)
        except InvalidRequirement:
            raise RecipeError(
                f"{path.name} cannot be used", f"the line {content[:80]!r} is no requirement", "Correct it"
            ) from None
        if requirement.url is not None:
            raise RecipeError(
                f"{path.name} cannot be used", f"{requirement.name} comes from an address", "Name a version instead"
            )
        found.append(requirement)
    return tuple(found)


def check(recipe: PythonRecipe, reports: Iterable[WheelReport], fit: Fit) -> None:
    """Refuse wheels that do not fit together on the target, or do not fulfil the recipe. Raises RecipeError."""
    have = {report.name: report for report in reports}
    for report in have.values():
        if not report.requires_python.contains(fit.environment["python_full_version"], prereleases=True):
            raise drift(fit, f"{report.name} {report.version} is for Python {report.requires_python}")
    asked: list[tuple[str, Requirement]] = [
        (path.name, requirement) for path in recipe.requirements for requirement in wanted(path)
    ]
    extras: dict[str, set[str]] = {name: {""} for name in have}
    done: set[tuple[str, str]] = set()
    while True:
        for by, requirement in asked:
            if requirement.marker is None or requirement.marker.evaluate({**fit.environment, "extra": ""}):
                _check_one(by, requirement, have, fit)
                extras[canonicalize_name(requirement.name)] |= {canonicalize_name(name) for name in requirement.extras}
        todo = [(name, extra) for name, known in extras.items() for extra in sorted(known) if (name, extra) not in done]
        if not todo:
            return
        done.update(todo)
        asked = [
            (f"{name} {have[name].version}", requirement)
            for name, extra in todo
            for requirement in _active(have[name], extra, fit)
        ]


def _active(report: WheelReport, extra: str, fit: Fit) -> list[Requirement]:
    """What a wheel requires on the target: always, and for one of its extras."""
    active = []
    for requirement in report.requires:
        if requirement.marker is not None:
            if not requirement.marker.evaluate({**fit.environment, "extra": extra}):
                continue
            requirement = Requirement(str(requirement))
            requirement.marker = None
        active.append(requirement)
    return active


def _check_one(by: str, requirement: Requirement, have: Mapping[str, WheelReport], fit: Fit) -> None:
    name = canonicalize_name(requirement.name)
    report = have.get(name)
    if report is None:
        raise drift(fit, f"{by} needs {requirement.name}{requirement.specifier}, which is not in the lock")
    if not requirement.specifier.contains(report.version, prereleases=True):
        raise drift(fit, f"{by} needs {requirement.name}{requirement.specifier}, the lock has {report.version}")


def drift(fit: Fit, why: str) -> RecipeError:
    return RecipeError(f"The lock does not fit {fit.name}", why, RELOCK)
