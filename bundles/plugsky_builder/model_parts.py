"""What a model contributes to a bundle: the file itself, its catalogue entry and its licence text.

The file is read by the bounded GGUF reader and its chat templates are checked before anything is written, so that a
file which is not a model, or not a harmless one, fails in the build room.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from plugsky.models import templates
from plugsky_builder import health, sources
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
    found = [_read(model, source, cache, progress) for source in model.files]
    names, digests = [source.name for source in model.files], tuple(source.sha256 for source in model.files)
    infos = [info for _, info in found]
    split_model.check_set(names, infos)
    for name, template in infos[0].templates.items():
        templates.check(template, f"The chat template {name!r} of {model.id}")
    _check_claims(model, infos[0])
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


def _read(model: ModelRecipe, source: FileSource, cache: Cache, progress: Progress) -> tuple[Path, GgufInfo]:
    """A file of the model and what it says of itself; a damaged cached copy is fetched anew, once."""
    for again in (False, True):
        path = sources.obtain(source, cache, progress)
        progress(ProgressEvent("check", 0, 1, source.name))
        try:
            with path.open("rb") as file:
                info = gguf.read(file, path.stat().st_size)
        except GgufError:
            _blame_the_copy(source, path, cache, again=again)
        else:
            progress(ProgressEvent("check", 1, 1, source.name))
            return path, info
    raise AssertionError(model.id)


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


def _check_claims(model: ModelRecipe, info: GgufInfo) -> None:
    """What the recipe says must not promise more than the file holds."""
    if info.context_length is not None and model.context > info.context_length:
        raise RecipeError(
            f"The context of {model.id} is too long",
            f"the recipe says {model.context} tokens, the model was trained for {info.context_length}",
            "Correct the recipe",
        )


def _blame_the_copy(source: FileSource, path: Path, cache: Cache, *, again: bool) -> None:
    """To be called where a file does not parse: raise what it raised, unless a cached copy is damaged and was forgotten.

    A file that has another digest than its pin says so in the first place.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == source.sha256:
        raise  # noqa: PLE0704
    cached = path == cache.file(source.sha256)
    if cached:
        cache.discard(source.sha256)
    if again or not cached:
        raise DigestMismatch(
            f"{source.name} is not what the recipe pins",
            f"SHA-256 {digest}, not {source.sha256}",
            "Check the hash in the recipe against the publisher's",
        )
