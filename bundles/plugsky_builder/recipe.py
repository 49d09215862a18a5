"""A recipe: what a bundle holds, as data that a reviewer can read. TOML in, frozen values out.

Guarantees of `load`: every key is known, every value has its type, every byte that comes from elsewhere is pinned by
SHA-256, names are ones that the bundle format allows, no two models share an id and no two targets a folder; the parts
of a split model are named as one set, in order. Paths in a recipe are relative to the recipe's own directory. Nothing
is fetched here. docs/recipes.md explains every key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from plugsky_builder import file_sources
from plugsky_builder.debs import recipe_part
from plugsky_builder.debs.recipe_part import DebsRecipe
from plugsky_builder.file_sources import FileSource, HttpsFile, HuggingFaceFile, LocalFile, PypiFile
from plugsky_builder.tables import Table
from plugsky_builder.targets import ACCELERATORS, MACHINES, RELEASES, Target
from plugsky_bundles import split_model
from plugsky_bundles.errors import BundleError, GgufError, NotFound, RecipeError
from plugsky_bundles.format import check_channel, check_target_path

__all__ = [
    "DebsRecipe",
    "FileSource",
    "HttpsFile",
    "HuggingFaceFile",
    "LocalFile",
    "ModelRecipe",
    "PypiFile",
    "PythonRecipe",
    "Recipe",
    "load",
]

MAX_RECIPE: Final = 1024 * 1024
MODES: Final = ("generate", "embed", "rerank")
MODEL_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
DEFAULT_DAYS: Final = 365


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """One model; `context` in tokens is as trained. `file` is the first of its parts, `parts` the others.

    `health` is whether it is measured here, so that every site can compare (see `plugsky_builder.health`).
    """

    id: str
    title: str
    mode: str
    context: int
    licence: str
    languages: tuple[str, ...]
    homepage: str
    file: FileSource
    licence_text: FileSource
    parts: tuple[FileSource, ...] = ()
    health: bool = True

    @property
    def files(self) -> tuple[FileSource, ...]:
        """Every file of the model, in order."""
        return (self.file, *self.parts)


@dataclass(frozen=True, slots=True)
class PythonRecipe:
    """The Python parts: a lock with hashes, and files of further requirements that have a lock for each target.

    `compiled` are packages that come as wheels from the wheelhouse, `sdists` ones that are compiled from the index with
    the tools of `build_lock`.
    """

    lock: Path
    compiled: tuple[str, ...]
    appliance: bool
    requirements: tuple[Path, ...] = ()
    sdists: tuple[str, ...] = ()
    build_lock: Path | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe; `valid_days` counts from the build to the expiry of its metadata.

    Without `targets` the bundle is for hosts like the build machine. `no_rehearsal` is why the installation shall not
    be rehearsed, empty when it shall. `contact` is whom a sysadmin may ask, for README.txt. With
    `require_vulnerability_check` a build fails when it could not ask for known vulnerabilities.
    """

    source: Path
    channel: str
    title: str
    valid_days: int
    models: tuple[ModelRecipe, ...]
    python: PythonRecipe | None
    playbooks: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    debs: DebsRecipe | None = None
    no_rehearsal: str = ""
    contact: str = ""
    require_vulnerability_check: bool = False


def load(path: Path) -> Recipe:
    """Read the recipe at `path`. Raises RecipeError (exit code 2) or NotFound."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RECIPE + 1)
    except OSError as error:
        raise NotFound(
            f"The recipe {path} cannot be read", error.strerror or "it cannot be opened", "Check the path"
        ) from error
    if len(raw) > MAX_RECIPE:
        raise RecipeError(f"{path.name} cannot be used", f"it is larger than {MAX_RECIPE} bytes", "Is it a recipe?")
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path.name} is not TOML", str(error), "Correct the recipe") from error

    table = Table(values, path.name)
    channel = table.text("channel")
    _named(table, "channel", check_channel, channel)
    title = table.text("title", channel)
    contact = table.text("contact") if table.has("contact") else ""
    valid_days = table.count("valid-days", DEFAULT_DAYS)
    models = tuple(_model(entry, path.parent) for entry in table.tables("model"))
    ids = [model.id for model in models]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise table.wrong("model", f"has the id {model_id!r} twice")
    targets = tuple(_target(entry) for entry in table.tables("target"))
    folders = [target.folder for target in targets]
    for folder in folders:
        if folders.count(folder) > 1:
            raise table.wrong("target", f"has {folder} twice; make two recipes for two accelerators")
    python = _python(table.table("python"), path.parent, targets) if table.has("python") else None
    debs = recipe_part.read(table.table("debs"), path.parent) if table.has("debs") else None
    if debs is not None and not targets:
        raise table.wrong("debs", "needs at least one [[target]]: packages are for one release of an operating system")
    playbooks: tuple[str, ...] = ()
    if table.has("playbooks"):
        section = table.table("playbooks")
        playbooks = section.texts("include")
        if any(pattern.startswith("/") or ".." in pattern.split("/") for pattern in playbooks):
            raise section.wrong("include", "must stay inside the playbooks")
        section.end()
    no_rehearsal = ""
    if table.has("rehearsal"):
        section = table.table("rehearsal")
        no_rehearsal = section.text("skip")
        section.end()
    check = False
    if table.has("evidence"):
        section = table.table("evidence")
        check = section.flag("require-vulnerability-check", False)
        section.end()
    table.end()
    return Recipe(
        path, channel, title, valid_days, models, python, playbooks, targets, debs, no_rehearsal, contact, check
    )


def _model(table: Table, base: Path) -> ModelRecipe:
    model_id = table.text("id")
    if MODEL_ID.fullmatch(model_id) is None:
        raise table.wrong("id", "must be 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
    if table.has("file") and table.has("files"):
        raise table.wrong("files", "cannot stand beside file; a split model has only files")
    tables = table.tables("files") if table.has("files") else [table.table("file")]
    files = tuple(file_sources.read(entry, base) for entry in tables)
    if not files:
        raise table.wrong("files", "must name every part of the model")
    model = ModelRecipe(
        id=model_id,
        title=table.text("title", model_id),
        mode=table.choice("mode", MODES),
        context=table.count("context"),
        licence=table.text("licence"),
        languages=table.texts("languages"),
        homepage=table.text("homepage", "-"),
        file=files[0],
        licence_text=file_sources.read(table.table("licence-text"), base),
        parts=files[1:],
        health=table.flag("health", True),
    )
    table.end()
    for file in files:
        _named(table, "file", check_target_path, f"models/{model_id}/{file.name}")
        if not file.name.endswith(".gguf"):
            raise table.wrong("file", f"{file.name!r} must be a .gguf file")
    if len(files) > 1 or table.has("files"):
        _check_parts(table, [file.name for file in files])
    return model


def _check_parts(table: Table, names: list[str]) -> None:
    """Refuse names that are not those of one complete split, in order: llama.cpp finds the parts by them."""
    try:
        expected = split_model.part_names(names[0])
    except GgufError as error:
        raise table.wrong("files", f"begins with {names[0]!r}: {error.why}") from error
    for name, right in zip_longest(names, expected):
        if name != right:
            fault = f"has {name!r} where {right!r} belongs" if right else f"has {name!r}, which is none of its parts"
            raise table.wrong("files", f"{fault}: name all parts of one model, in order")


def _target(table: Table) -> Target:
    system = table.choice("os", tuple(RELEASES))
    own = ".".join(RELEASES[system].python.split(".")[:2])
    python = table.text("python", own)
    if python != own:
        raise table.wrong("python", f"is {python!r}, but {system} comes with Python {own}")
    arch = table.choice("arch", tuple(MACHINES), "amd64")
    target = Target(system, arch, python, table.choice("accelerator", ACCELERATORS, "cpu"))
    table.end()
    return target


def _python(table: Table, base: Path, targets: tuple[Target, ...]) -> PythonRecipe:
    requirements = tuple(base / name for name in table.texts("requirements", []))
    if requirements and not targets:
        raise table.wrong("requirements", "needs at least one [[target]] to be locked for")
    python = PythonRecipe(
        base / table.text("lock"),
        table.texts("compiled", []),
        table.flag("appliance", True),
        requirements,
        table.texts("sdists", []),
        base / table.text("build-lock") if table.has("build-lock") else None,
    )
    if python.build_lock is not None and not python.sdists:
        raise table.wrong("build-lock", "needs at least one of sdists to be compiled with it")
    table.end()
    return python


def _named(table: Table, key: str, check: Callable[[str], object], name: str) -> None:
    try:
        check(name)
    except BundleError as error:
        raise table.wrong(key, f"is not allowed: {error.why}") from error
