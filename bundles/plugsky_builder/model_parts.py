"""What a model contributes to a bundle: the file itself, its catalogue entry and its licence text.

The file is read by the bounded GGUF reader and its chat templates are checked before anything is written, so that a
file which is not a model, or not a harmless one, fails in the build room.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from plugsky_builder import health, sources, templates
from plugsky_builder.cache import Cache
from plugsky_builder.pack import Material
from plugsky_builder.recipe import ModelRecipe, PypiFile
from plugsky_bundles import gguf
from plugsky_bundles.errors import DigestMismatch, GgufError, RecipeError
from plugsky_bundles.gguf import GgufInfo
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.strict_json import encode

SCHEMA: Final = "plugsky.model/1"


def gather(model: ModelRecipe, cache: Cache, progress: Progress) -> list[Material]:
    """The materials of one model. Raises GgufError, DigestMismatch, RecipeError or an error of its sources."""
    path = sources.obtain(model.file, cache, progress)
    progress(ProgressEvent("check", 0, 1, model.file.name))
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            info = gguf.read(file, size)
        for name, template in info.templates.items():
            templates.check(template, f"The chat template {name!r} of {model.id}")
    except GgufError:
        _blame_the_copy(model, path, cache)
        raise
    _check_claims(model, info)
    measured = (
        health.signed(model.id, model.mode, {model.file.name: path}, (model.file.sha256,), cache, progress)
        if model.health
        else None
    )
    folder = f"models/{model.id}"
    weights = Material(f"{folder}/{model.file.name}", path, size, model.file.sha256, info)
    licence = sources.obtain(model.licence_text, cache, progress)
    text = Material(f"{folder}/LICENSE", licence, licence.stat().st_size, model.licence_text.sha256)
    progress(ProgressEvent("check", 1, 1, model.file.name))
    return [weights, Material.of_bytes(f"{folder}/model.json", _entry(model, info, measured)), text]


def _entry(model: ModelRecipe, info: GgufInfo, measured: dict[str, Any] | None) -> bytes:
    """The catalogue entry, as the site's catalogue reads it."""
    return encode(
        {
            **({"health": measured} if measured is not None else {}),
            "schema": SCHEMA,
            "id": model.id,
            "title": model.title,
            "mode": model.mode,
            "file": model.file.name,
            "sha256": model.file.sha256,
            "size": info.size,
            "context": model.context,
            "licence": model.licence,
            "languages": list(model.languages),
            "homepage": model.homepage,
            "origin": model.file.origin,
            "architecture": info.architecture,
            "quantisation": info.quantisation,
            "parameters": info.parameters,
        }
    )


def _check_claims(model: ModelRecipe, info: GgufInfo) -> None:
    """What the recipe says must not promise more than the file holds."""
    if info.split is not None:
        raise RecipeError(
            f"{model.file.name} is part of a split model",
            f"it is part {info.split.number + 1} of {info.split.count}",
            "Join the parts with llama-gguf-split --merge and name the result",
        )
    if info.context_length is not None and model.context > info.context_length:
        raise RecipeError(
            f"The context of {model.id} is too long",
            f"the recipe says {model.context} tokens, the model was trained for {info.context_length}",
            "Correct the recipe",
        )


def _blame_the_copy(model: ModelRecipe, path: Path, cache: Cache) -> None:
    """A file that does not parse may be a damaged cached copy: then say that, and forget the copy."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.file.sha256:
        if isinstance(model.file, PypiFile):
            cache.discard(model.file.sha256)
        raise DigestMismatch(
            f"{model.file.name} is not what the recipe pins",
            f"SHA-256 {digest}, not {model.file.sha256}",
            "Check the hash in the recipe, or run it again if the file came from the cache",
        )
