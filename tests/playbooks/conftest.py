"""What the tests of hosts share: the bundle on a stick, the paper, and root file systems to boot."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from playbooks import booted
from plugsky.core import settings
from plugsky_builder import base_system
from plugsky_builder.cache import Cache
from plugsky_builder.debs import releases, renewal, state
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.recipe import load
from plugsky_builder.targets import Target
from plugsky_bundles.errors import SourceError
from plugsky_bundles.progress import silent

ROOT = Path(__file__).parents[2]
TARGET = Target("debian-12", "amd64", "3.11")
PARTS = """
[[target]]
os = "debian-12"
python = "3.11"
arch = "amd64"
accelerator = "cpu"
[debs]
packages = []
"""


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """The operator's connected machine. Says what it lacks to boot hosts."""
    if why := booted.missing():
        pytest.skip(why)
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="session")
def mirror(desk):
    return Mirror(Cache(settings.load({}).values.cache), releases.ARCHIVES, silent)


@pytest.fixture(scope="session")
def base(mirror):
    """The tar of a bare host that can be booted and reached by SSH."""
    try:
        return base_system.obtain(TARGET, state.newest(TARGET, mirror, None)[0], booted.PACKAGES, mirror, silent)
    except SourceError as error:
        pytest.skip(f"a minimal Debian cannot be made: {error}")


@pytest.fixture(scope="session")
def operator(desk):
    """Runs a command of the operator, who has keys, from this tree or another; gives what it prints."""
    own = {"PLUGSKY_TRUST": str(desk / "trust"), "PLUGSKY_PASSPHRASE": "correct horse battery staple"}

    def run(*command, tree: Path = ROOT) -> bytes:
        words = [sys.executable, "-m", "plugsky", *map(str, command)]
        rooms = {"PYTHONPATH": os.pathsep.join(str(tree / room) for room in ("appliance", "bundles", "tui"))}
        done = subprocess.run(words, env={**os.environ, **own, **rooms}, capture_output=True, check=False, cwd=tree)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    run("trust", "init", "--out", desk / "trust")
    return run


@pytest.fixture(scope="session")
def media(desk):
    """What is bound into hosts, read-only: the directory with the bundles."""
    (desk / "media").mkdir()
    return desk / "media"


@pytest.fixture(scope="session")
def publish(operator, recipe, media):
    """Builds, signs and seals the next version of the bundle; gives its path."""

    def make(*options, tree: Path = ROOT) -> Path:
        built = operator("bundle", "build", recipe, "--out", media, "--json", *options, tree=tree)
        bundle = Path(json.loads(built)["path"])
        operator("trust", "sign", bundle)
        operator("bundle", "seal", bundle)
        return bundle

    return make


@pytest.fixture(scope="session")
def recipe(desk, mirror):
    """The demo for Debian 12, with the packages that a bare host lacks as Debian has them today."""
    recipe = desk / "host.toml"
    text = (ROOT / "bundles/recipes/demo.toml").read_text().replace("../locks", str(ROOT / "bundles/locks"))
    recipe.write_text(text + PARTS)
    try:
        renewal.renew(load(recipe), mirror.cache.root, now=datetime.now(UTC), progress=silent)
    except SourceError as error:
        pytest.skip(f"Debian's packages cannot be obtained: {error}")
    return recipe


@pytest.fixture(scope="session")
def stick(publish):
    """The first sealed bundle."""
    return publish()


@pytest.fixture(scope="session")
def paper(stick, desk):
    """The root's fingerprint and the SHA-256 of install.sh: what travels apart from the stick."""
    root = (desk / "trust/metadata/1.root.json").read_bytes()
    return hashlib.sha256(root).hexdigest(), hashlib.sha256((stick / "install.sh").read_bytes()).hexdigest()
