"""Commands as a person types them at a desk: they run in this process, and what they print is looked at."""

import hashlib
import json
from pathlib import Path

import pytest

from bundles.gguf_forge import Forge
from bundles.recipe_text import local, one_model
from plugsky.cli import app as cli
from plugsky.core.errors import ExitCode

LICENCE = b"MIT\n"


class Desk:
    """A shell in a directory of its own; further `options` are those of `run`."""

    def __init__(self, place: Path, capsys) -> None:
        self.place, self._capsys = place, capsys

    def run(self, *words, expect=ExitCode.OK):
        """Run a command; what it printed, as (stdout, stderr)."""
        self._capsys.readouterr()
        code = cli.run([str(word) for word in words])
        told = self._capsys.readouterr()
        assert code == expect, f"{words} ended with {code}: {told.err}"
        return told

    def json(self, *words, **options):
        return json.loads(self.run(*words, "--json", **options).out)

    def error(self, *words, **options):
        """The error with which a command must end."""
        return json.loads(self.run(*words, "--json", **options).err.strip().splitlines()[-1])["error"]


class BuildersDesk(Desk):
    """A desk with a recipe for one small model."""

    def write_recipe(self, model: bytes, pin: str | None = None) -> None:
        (self.place / "tiny.gguf").write_bytes(model)
        (self.place / "LICENSE").write_bytes(LICENCE)
        weights = local("tiny.gguf", pin or hashlib.sha256(model).hexdigest())
        licence = local("LICENSE", hashlib.sha256(LICENCE).hexdigest())
        (self.place / "lab.toml").write_text(one_model(f"file = {weights}", licence))

    def build(self, *options: object, out: str = "media") -> Path:
        words = ("bundle", "build", self.place / "lab.toml", "--out", self.place / out, *options)
        return Path(self.json(*words)["path"])

    def sealed(self, *options: object) -> Path:
        bundle = self.build(*options)
        self.run("trust", "sign", bundle)
        self.run("bundle", "seal", bundle)
        return bundle

    @property
    def pin(self) -> str:
        return self.json("trust", "show")["root_fingerprint"]


@pytest.fixture
def desk(tmp_path, capsys, monkeypatch):
    """A builder's desk with a trust directory."""
    for name, value in {
        "PLUGSKY_TRUST": tmp_path / "trust",
        "PLUGSKY_ROOT": tmp_path / "site",
        "PLUGSKY_CACHE": tmp_path / "cache",
        "PLUGSKY_PASSPHRASE": "correct horse",
        "XDG_CONFIG_HOME": tmp_path / "config",
    }.items():
        monkeypatch.setenv(name, str(value))
    desk = BuildersDesk(tmp_path, capsys)
    desk.write_recipe(Forge().build())
    desk.run("trust", "init", "--out", tmp_path / "trust")
    return desk
