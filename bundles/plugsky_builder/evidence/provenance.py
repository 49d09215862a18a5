"""Where everything in a bundle came from: `evidence/provenance.json`, an in-toto statement with SLSA provenance.

The subjects are all files of the bundle by path and SHA-256, the same that people sign. The predicate says which recipe
and which locks they follow from, by digest, and names what was obtained: an origin and a digest each. It names no host,
no user, no path of the build machine, no credentials and no time, so the same build gives the same bytes; the time
stands in the signed metadata and in the custody log, which also is what vouches for this statement.
Sources: in-toto attestation framework, Statement v1; SLSA provenance v1.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from plugsky_builder import resolve
from plugsky_builder.bootstrap import APPLIANCE
from plugsky_builder.evidence import components as parts
from plugsky_builder.evidence.components import Component
from plugsky_builder.file_sources import FileSource, HuggingFaceFile, PypiFile
from plugsky_builder.locks import normalised
from plugsky_builder.pack import Material
from plugsky_builder.recipe import ModelRecipe, Recipe
from plugsky_bundles.strict_json import encode

PATH: Final = "evidence/provenance.json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:plugsky:build:recipe:1"


def material(
    recipe: Recipe, materials: Sequence[Material], components: Sequence[Component], version: int, content_id: str
) -> Material:
    """The statement for `materials`, all the files of the bundle."""
    own = [component for component in components if component.kind == parts.APPLIANCE_KIND]
    statement = {
        "_type": STATEMENT,
        "subject": [
            {"name": one.path, "digest": _sha256(one.sha256)} for one in sorted(materials, key=lambda one: one.path)
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"channel": recipe.channel, "version": version, "recipe": _recipe(recipe.source)},
                "internalParameters": {
                    "content_id": content_id,
                    "locks": [{"name": path.name, "digest": _sha256(_digest(path))} for path in _locks(recipe)],
                    "targets": [target.folder for target in recipe.targets],
                },
                "resolvedDependencies": _dependencies(recipe, components),
            },
            "runDetails": {
                "builder": {
                    "id": f"pkg:pypi/{APPLIANCE}@{importlib.metadata.version(APPLIANCE)}",
                    "builderDependencies": [
                        {"uri": str(one.purl), "name": one.path, "digest": _sha256(one.files[one.path])} for one in own
                    ],
                },
                "metadata": {"invocationId": content_id},
            },
        },
    }
    return Material.of_bytes(PATH, encode(statement))


def _recipe(path: Path) -> dict[str, Any]:
    """The recipe's file, and the digest of what it says, which a comment or another order of lines does not change."""
    raw = path.read_bytes()
    says = hashlib.sha256(encode(tomllib.loads(raw.decode()))).hexdigest()
    return {"name": path.name, "digest": _sha256(hashlib.sha256(raw).hexdigest()), "says": _sha256(says)}


def _locks(recipe: Recipe) -> list[Path]:
    """Every lock that decided what travels."""
    found: list[Path] = []
    if recipe.python is not None:
        pairs = [(file, target) for file in recipe.python.requirements for target in recipe.targets]
        found += [recipe.python.lock, *(resolve.lock_of(file, target) for file, target in pairs)]
        found += [] if recipe.python.build_lock is None else [recipe.python.build_lock]
    if recipe.debs is not None:
        found += [recipe.debs.lock_of(target.folder) for target in recipe.targets]
    return sorted(set(found), key=lambda path: path.name)


def _dependencies(recipe: Recipe, components: Iterable[Component]) -> list[dict[str, Any]]:
    """What was obtained from elsewhere, by URI and then digest, each once."""
    found = [one for model in recipe.models for one in _of_model(model)]
    ways = _ways(recipe)
    for one in components:
        if one.kind == parts.WHEEL:
            how = {"obtained": ways.get(one.name, _INDEX)}
            found.append(_dependency(str(one.purl), one.files[one.path], one.path, how))
        elif one.kind == parts.DEB:
            proof = f"evidence/{one.path.rpartition('/')[0]}/"
            found.append(_dependency(str(one.purl), one.files[one.path], one.path, {"vouched-for-in": proof}))
    by_key = {(one["uri"], one["name"], one["digest"]["sha256"]): one for one in found}
    return [by_key[key] for key in sorted(by_key)]


def _ways(recipe: Recipe) -> dict[str, str]:
    """How the packages were obtained that did not come as wheels from the index."""
    if recipe.python is None:
        return {}
    return {normalised(name): _COMPILED for name in recipe.python.compiled} | {
        normalised(name): _SOURCE for name in recipe.python.sdists
    }


def _of_model(model: ModelRecipe) -> list[dict[str, Any]]:
    found = []
    for source in (*model.files, model.licence_text):
        found.append(_dependency(_uri(source), source.sha256, f"models/{model.id}", {}))
        if isinstance(source, PypiFile):
            found.append(_dependency(_wheel(source), source.wheel_sha256, f"models/{model.id}", {"obtained": _INDEX}))
    return found


def _uri(source: FileSource) -> str:
    """A package URL with the file in it where there is a package, else the origin that the recipe gives it."""
    match source:
        case HuggingFaceFile():
            return f"pkg:huggingface/{source.repository}@{source.revision}#{source.path}"
        case PypiFile():
            return f"{_wheel(source)}#{source.member}"
        case _:
            return source.origin


def _wheel(source: PypiFile) -> str:
    name, _, version = source.requirement.partition("==")
    return f"pkg:pypi/{normalised(name)}@{version}"


def _dependency(uri: str, sha256: str, name: str, annotations: dict[str, str]) -> dict[str, Any]:
    noted = {"annotations": annotations} if annotations else {}
    return {"uri": uri, "name": name, "digest": _sha256(sha256), **noted}


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_COMPILED: Final = "compiled beforehand, its version pinned by a lock"
_SOURCE: Final = "compiled from the source package on the index, by the SHA-256 that a lock pins"
_INDEX: Final = "from the Python package index, by the SHA-256 that a lock or the recipe pins"
