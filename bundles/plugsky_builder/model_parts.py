"""What a model contributes to a bundle: its files, its catalogue entry and its licence text.

Each file is read by the bounded GGUF reader and its chat templates are checked before anything is written, so that a
file which is not a model, or not a harmless one, fails in the build room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from plugsky.models import templates
from plugsky_builder import health, sources
from plugsky_builder.cache import Cache
from plugsky_builder.file_sources import FileSource
from plugsky_builder.pack import Material
from plugsky_builder.recipe import ModelRecipe
from plugsky_bundles import gguf, split_model
from plugsky_bundles.errors import DigestMismatch, GgufError, RecipeError
from plugsky_bundles.gguf import GgufInfo
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.strict_json import encode

SCHEMA: Final = "plugsky.model/1"


def gather(model: ModelRecipe, cache: Cache, progress: Progress) -> list[Material]:
    """The materials of one model. Raises GgufError, DigestMismatch, RecipeError or an error of its sources."""
    found = [_read(source, cache, progress) for source in model.files]
    names, digests = [source.name for source in model.files], tuple(source.sha256 for source in model.files)
    infos = [info for _, info in found]
    _check_claims(model, infos)
    split_model.check_set(names, infos)
    for name, template in infos[0].templates.items():
        templates.check(template, f"The chat template {name!r} of {model.id}")
    paths = {name: path for name, (path, _) in zip(names, found, strict=True)}
    measured = health.signed(model.id, model.mode, paths, digests, cache, progress) if model.health else None
    folder = f"models/{model.id}"
    weights = [
        Material(f"{folder}/{source.name}", path, info.size, source.sha256, info, sources.facts(source, cache))
        for source, (path, info) in zip(model.files, found, strict=True)
    ]
    licence = sources.obtain(model.licence_text, cache, progress)
    text = Material(f"{folder}/LICENSE", licence, licence.stat().st_size, model.licence_text.sha256)
    return [*weights, Material.of_bytes(f"{folder}/model.json", _entry(model, infos, digests, measured)), text]


def _read(source: FileSource, cache: Cache, progress: Progress) -> tuple[Path, GgufInfo]:
    """A file of the model and what it says of itself; a copy that was damaged in the cache is fetched anew."""
    path = sources.obtain(source, cache, progress)
    progress(ProgressEvent("check", 0, 1, source.name))
    try:
        info = _header(path)
    except GgufError:
        if _is_as_pinned(source, path, cache):
            raise
        path = sources.obtain(source, cache, progress)
        info = _header(path)
    progress(ProgressEvent("check", 1, 1, source.name))
    return path, info


def _header(path: Path) -> GgufInfo:
    with path.open("rb") as file:
        return gguf.read(file, path.stat().st_size)


def _is_as_pinned(source: FileSource, path: Path, cache: Cache) -> bool:
    """Whether a file that does not parse is the right one; a damaged copy is forgotten, a wrong original refused."""
    if path == cache.file(source.sha256):
        return cache.is_sound(source.sha256)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise DigestMismatch(
            f"{source.name} is not what the recipe pins",
            f"SHA-256 {digest}, not {source.sha256}",
            "Check the hash in the recipe against the publisher's",
        )
    return True


def _entry(
    model: ModelRecipe, infos: Sequence[GgufInfo], digests: Sequence[str], measured: dict[str, Any] | None
) -> bytes:
    """The catalogue entry, as the site's catalogue reads it; a split model lists its files."""
    files = [
        {"name": source.name, "sha256": source.sha256, "size": info.size}
        for source, info in zip(model.files, infos, strict=True)
    ]
    return encode(
        {
            **({"health": measured} if measured is not None else {}),
            **({"files": files} if len(files) > 1 else {}),
            "schema": SCHEMA,
            "id": model.id,
            "title": model.title,
            "mode": model.mode,
            "file": model.file.name,
            "sha256": split_model.digest_of(digests),
            "size": sum(info.size for info in infos),
            "context": model.context,
            "licence": model.licence,
            "languages": list(model.languages),
            "homepage": model.homepage,
            "origin": model.file.origin,
            "architecture": infos[0].architecture,
            "quantisation": infos[0].quantisation,
            "parameters": sum(info.parameters for info in infos),
        }
    )


def _check_claims(model: ModelRecipe, infos: Sequence[GgufInfo]) -> None:
    """What the recipe says must not promise more than the files hold."""
    info = infos[0]
    if len(infos) == 1 and info.split is not None:
        raise RecipeError(
            f"{model.file.name} is part of a split model",
            f"it is part {info.split.number + 1} of {info.split.count}",
            "Name all its parts, in order, in the recipe's `files`",
        )
    if info.context_length is not None and model.context > info.context_length:
        raise RecipeError(
            f"The context of {model.id} is too long",
            f"the recipe says {model.context} tokens, the model was trained for {info.context_length}",
            "Correct the recipe",
        )
