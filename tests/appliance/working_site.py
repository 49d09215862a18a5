"""A site whose generations can run: their Python is this one, their models are small and real."""

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.test_installation import Site
from bundles.small_llama import small_llama
from plugsky.fleet import generations, venv
from plugsky_builder import model_parts
from plugsky_builder.cache import Cache
from plugsky_builder.recipe import LocalFile, ModelRecipe
from plugsky_bundles.progress import silent

WRAPPER = '#!/bin/sh\nexec {python} "$@"\n'
LICENCE = b"MIT\n"


def our_python(folder: Path, *_rest: object, **_options: object) -> None:
    """An environment that is the one of the tests."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(WRAPPER.format(python=sys.executable))
    python.chmod(0o755)


@functools.cache
def _gathered(weights: bytes, model_id: str) -> Mapping[str, bytes]:
    """Gathered once: the builder starts an engine to measure a model."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "small.gguf").write_bytes(weights)
        (base / "LICENSE").write_bytes(LICENCE)
        pinned = LocalFile(base / "small.gguf", hashlib.sha256(weights).hexdigest())
        text = LocalFile(base / "LICENSE", hashlib.sha256(LICENCE).hexdigest())
        entry = ModelRecipe(model_id, "Small", "generate", 256, "MIT", ("en",), "-", pinned, text)
        parts = model_parts.gather(entry, Cache(base / "cache"), silent)
        return {p.path: p.content if isinstance(p.content, bytes) else p.content.read_bytes() for p in parts}


def model_files(weights: bytes, model_id: str = "small", *, signed: bytes | None = None) -> dict[str, bytes]:
    """A model as the builder puts it into a bundle; its health is that of the weights that were ``signed``."""
    files = dict(_gathered(signed or weights, model_id))
    if signed is not None:
        path = f"models/{model_id}/model.json"
        digests = [hashlib.sha256(data).hexdigest().encode() for data in (signed, weights)]
        files |= {f"models/{model_id}/small.gguf": weights, path: files[path].replace(*digests)}
    return files


class WorkingSite(Site):
    """A :class:`Site` with Python parts."""

    def __init__(self, base: Path, files: Mapping[str, bytes]) -> None:
        super().__init__(base)
        self.base = base
        self.files = dict(files) | {"python/requirements.txt": b""}

    def brings(self, weights: bytes, **options: object) -> Path:
        """A bundle whose one model has these weights."""
        return self.bundle_of(model_files(weights, **options))

    def bundle_of(self, files: Mapping[str, bytes]) -> Path:
        self.files = {path: data for path, data in self.files.items() if not path.startswith("models/")} | dict(files)
        return self.bundle()

    def verify(self, bundle: Path, pin: str | None = None):
        verified = super().verify(bundle, pin)
        facts = generations.facts(self.paths)
        verified.entries["python/requirements.txt"].custom.update(python=facts.python, machine=facts.machine)
        return verified


@pytest.fixture
def working_site(tmp_path, monkeypatch):
    """A new site and a bundle's files for it; nothing is installed."""
    monkeypatch.setattr(venv, "make", our_python)
    return WorkingSite(tmp_path, model_files(small_llama()))


def occupied(*paths: Path) -> int:
    """Bytes that everything under ``paths`` takes on disk, each inode once, as du(1) counts."""
    seen = {}
    for folder, _, files in (found for path in paths for found in os.walk(path)):
        for name in [*files, "."]:
            stat = (Path(folder) / name).lstat()
            seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(seen.values())
