"""Makes the locks of a recipe's requirements files, or renews them: one for each file and target, beside the file.

uv resolves for the target: its markers, its Python, and only wheels that its glibc can load, but for packages that the
recipe compiles. The recipe's own lock constrains the answer, so the two fit together; versions that a lock has already
stay while they satisfy the requirements. Every line comes with its hashes. Certificates, proxies and the index are
those of the machine: uv's own settings, else pip's PIP_INDEX_URL.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uv

from plugsky.core import env
from plugsky_builder import locks, resolve, system_tools, web
from plugsky_builder.fit import Fit, fit_of
from plugsky_builder.recipe import PythonRecipe, Recipe
from plugsky_builder.system_tools import Tick
from plugsky_builder.targets import Target
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import SourceError, SourceUnreachable
from plugsky_bundles.progress import Progress, ProgressEvent

NEWEST_GLIBC: Final = 40
"""The newest minor version of glibc 2 that uv knows as a platform; no wheel asks for a newer one."""
SECONDS: Final = 600.0
_UNREACHABLE: Final = ("error sending request", "Failed to fetch", "dns error", "tcp connect error", "timed out")


@dataclass(frozen=True, slots=True)
class Renewed:
    """A lock after its renewal: how many packages it has, and what is new or gone as name==version."""

    target: str
    path: Path
    packages: int
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed)


def renew(recipe: Recipe, progress: Progress) -> list[Renewed]:
    """Resolve every requirements file for every target. Raises RecipeError, NotFound or SourceError and its kinds."""
    if recipe.python is None:
        return []
    renewed = []
    jobs = [(path, target) for path in recipe.python.requirements for target in recipe.targets]
    for number, (path, target) in enumerate(jobs):
        progress(ProgressEvent("lock", number, len(jobs), f"{path.name} for {target.folder}"))
        resolve.wanted(path)

        def tick(_said: bytes, number: int = number, path: Path = path) -> None:
            progress(ProgressEvent("lock", number, len(jobs), path.name))

        renewed.append(_renew(recipe.python, path, target, tick))
    if jobs:
        progress(ProgressEvent("lock", len(jobs), len(jobs), ""))
    return renewed


def _renew(recipe: PythonRecipe, path: Path, target: Target, tick: Tick) -> Renewed:
    place = resolve.lock_of(path, target)
    fit = fit_of(target)
    before = _pins(place) if place.exists() else set()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / place.name
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text(_constraints(recipe, fit), encoding="ascii")
        if place.exists():
            shutil.copyfile(place, made)
        _resolve(path, constraints, made, recipe, target, tick)
        after = _pins(made)
        if after != before or not place.exists():
            write_file(place, made.read_bytes(), mode=0o644)
    return Renewed(target.folder, place, len(after), tuple(sorted(after - before)), tuple(sorted(before - after)))


def _pins(path: Path) -> set[str]:
    return {f"{pin.name}=={pin.version}" for pin in locks.read(path)}


def _constraints(recipe: PythonRecipe, fit: Fit) -> str:
    """The versions that the recipe's own lock has on the target."""
    own = [pin for pin in locks.read(recipe.lock) if pin.applies(fit.environment)]
    return "".join(f"{pin.name}=={pin.version}\n" for pin in own)


def _resolve(path: Path, constraints: Path, made: Path, recipe: PythonRecipe, target: Target, tick: Tick) -> None:
    glibc = min(target.release.glibc[1], NEWEST_GLIBC)
    command = [uv.find_uv_bin(), "pip", "compile", str(path), "--constraints", str(constraints)]
    command += ["--python-platform", f"{target.machine}-manylinux_2_{glibc}", "--python-version", target.release.python]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--system-certs"]
    command += ["--only-binary", ":all:"]
    for name in (*recipe.sdists, *recipe.compiled):
        command += ["--no-binary", name]
    index = env.PIP_INDEX_URL.read()
    if index is not None and env.UV_DEFAULT_INDEX.read() is None:
        command += ["--default-index", index]
    said = system_tools.run([*command, "--output-file", str(made)], seconds=SECONDS, inherited=True, tick=tick)
    if said.code != 0:
        why = web.redacted(" ".join(said.err.split()))[-500:]
        kind = SourceUnreachable if any(mark in said.err for mark in _UNREACHABLE) else SourceError
        raise kind(
            f"{path.name} cannot be resolved for {target}", why, "Correct the requirements, or check network and index"
        )
