"""Small parts of a bundle, as a build has them, for tests of what is said of them."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from bundles.deb_forge import Fake
from bundles.gguf_forge import Forge
from bundles.recipe_text import local, one_model
from bundles.wheel_forge import wheel_files, with_record, zipped
from plugsky_builder import recipe as recipes
from plugsky_builder.build import NOTHING_ASKED
from plugsky_builder.cache import Cache
from plugsky_builder.evidence import gathering
from plugsky_builder.pack import Material
from plugsky_builder.recipe import Recipe
from plugsky_bundles import gguf
from plugsky_bundles.format import content_id
from plugsky_bundles.progress import silent
from plugsky_bundles.strict_json import encode

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TEMPLATE = "{{ messages[0].content }}"
MIT = b"Permission is hereby granted\n"
HEALTH = {"text_sha256": "ab" * 32, "tokens": 127, "nll_micronats": 3_150_758}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def material(path: str, file: Path, custom=None, info=None) -> Material:
    data = file.read_bytes()
    return Material(path, file, len(data), sha256(data), info, custom or {})


def wheel(
    base: Path, name: str = "tiny", version: str = "1.0", about: str = "License-Expression: MIT\n", texts=None
) -> Material:
    """A wheel in `base`; `texts` are licence files by their name in its .dist-info."""
    info = {"licenses/LICENSE": MIT} if texts is None else texts
    members = with_record(wheel_files(name, version, {f"{name}/__init__.py": b""}, about=about, info=info))
    base.mkdir(parents=True, exist_ok=True)
    file = zipped(base / f"{name}-{version}-py3-none-any.whl", members)
    return material(f"python/{file.name}", file)


def deb(base: Path, fake: Fake, target: str = "debian-12-amd64") -> Material:
    base.mkdir(parents=True, exist_ok=True)
    file = base / fake.file
    file.write_bytes(fake.build())
    custom = {"name": fake.name, "version": fake.version, "architecture": fake.architecture}
    return material(f"debs/{target}/{fake.file}", file, custom)


def model(base: Path) -> list[Material]:
    base.mkdir(parents=True, exist_ok=True)
    file = base / "tiny.gguf"
    file.write_bytes(Forge().build())
    with file.open("rb") as stream:
        info = gguf.read(stream, file.stat().st_size)
    weights = material("models/tiny/tiny.gguf", file, info=info)
    entry = {
        "schema": "plugsky.model/1",
        "id": "tiny",
        "title": "Tiny",
        "mode": "generate",
        "file": "tiny.gguf",
        "sha256": weights.sha256,
        "size": weights.length,
        "context": 128,
        "licence": "MIT",
        "languages": ["ar", "en"],
        "homepage": "https://example.org/tiny",
        "origin": "file:tiny.gguf",
        "architecture": info.architecture,
        "quantisation": info.quantisation,
        "parameters": info.parameters,
        "health": HEALTH,
    }
    return [
        weights,
        Material.of_bytes("models/tiny/model.json", encode(entry)),
        Material.of_bytes("models/tiny/LICENSE", MIT),
    ]


def recipe(base: Path, more: str = "") -> Recipe:
    """A recipe for the model alone; of the others only materials exist."""
    base.mkdir(parents=True, exist_ok=True)
    weights = Forge().build()
    file = base / "lab.toml"
    text = one_model(f"file = {local('tiny.gguf', sha256(weights))}", local("LICENSE", sha256(MIT)), health=True)
    file.write_text(text + more)
    return recipes.load(file)


def gather(base: Path, materials, *, now=NOW, debs=None, delta=None, asked=NOTHING_ASKED, offline=True, more=""):
    """The evidence for `materials`, by path, and what people should hear."""
    made = gathering.gather(
        recipe(base, more),
        materials,
        [
            *([] if delta else [Material.of_bytes("install.sh", b"#!/bin/sh\n")]),
            Material.of_bytes("README.txt", b"Hi\n"),
        ],
        debs,
        version=1,
        content_id=content_id(one.entry for one in materials),
        base=delta,
        cache=Cache(base / "cache", offline=offline),
        asked=asked,
        now=now,
        progress=silent,
    )
    files = {}
    for one in made.materials:
        with one.open() as file:
            files[one.path] = file.read()
    return files, made.warnings
