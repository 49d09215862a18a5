"""The demo recipe for real: the real model and wheels, built, sealed, verified, installed without a network."""

import dataclasses
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugsky.cli.bundle_build import WHEELHOUSE
from plugsky.core import settings
from plugsky.core.paths import SitePaths, checkout
from plugsky.fleet import generations
from plugsky.models import catalogue
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_bundles import ceremony, sealing, signing
from plugsky_bundles.errors import InstallError, NoSpace, SourceUnreachable
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import plan_install
from plugsky_bundles.verify import verify_metadata

pytestmark = pytest.mark.integration

DEMO = Path(__file__).parents[2] / "bundles" / "recipes" / "demo.toml"
MODEL = "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
PASSPHRASE = b"correct horse"


def build(trust: Path, out: Path) -> building.Built:
    chosen = settings.load({}).values
    wheelhouse = chosen.wheelhouse or (checkout() or chosen.cache) / WHEELHOUSE
    if not list(wheelhouse.glob("llama_cpp_python-*.whl")):
        pytest.skip(f"llama-cpp-python's compiled wheel is not in {wheelhouse}")
    now = datetime.now(UTC)
    try:
        return building.build(recipe.load(DEMO), out, trust, cache=chosen.cache, wheelhouse=wheelhouse, now=now)
    except SourceUnreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The sealed demo bundle, verified by its full read."""
    base = tmp_path_factory.mktemp("demo")
    fingerprint = ceremony.init(base / "trust", PASSPHRASE, now=datetime.now(UTC)).fingerprint
    built = build(base / "trust", base / "out")
    signing.sign(built.path, base / "trust", PASSPHRASE)
    sealing.seal(built.path, base / "trust", PASSPHRASE, datetime.now(UTC))
    verified = verify_metadata(open_bundle(built.path), fingerprint, now=datetime.now(UTC))
    verify_payload(verified)
    return base, built, verified


def test_the_model_is_cut_where_it_rarely_changes(demo):
    _, _, verified = demo
    model = verified.entries[MODEL]
    assert model.length == 98_362_432
    assert [chunk.length for chunk in model.chunks][:5] == [1095, 762398, 196690, 808689, 16792]
    assert sum(chunk.length for chunk in model.chunks) == model.length


def test_every_wheel_that_travels_is_in_the_lock_that_travels(demo):
    _, built, verified = demo
    blob = verified.entries["python/requirements.txt"].blobs[0].sha256
    lock = (built.path / "blobs" / blob[:2] / f"sha256-{blob}").read_text()
    wheels = [entry for path, entry in verified.entries.items() if path.endswith(".whl")]
    assert len(lock.splitlines()) == len(wheels)
    assert all(f"--hash=sha256:{wheel.sha256}\n" in lock for wheel in wheels)
    assert {"llama-cpp-python", "plugsky", "pip"} <= {line.split("==")[0] for line in lock.splitlines()}


def test_building_it_again_gives_the_same_content(demo, tmp_path):
    base, built, _ = demo
    assert build(base / "trust", tmp_path).content_id == built.content_id


def test_it_installs_without_a_network_and_its_command_works(demo, tmp_path):
    _, _, verified = demo
    paths = SitePaths.at(tmp_path / "a site", tmp_path / "run")
    heard = []
    plan = plan_install(verified, generations.facts(paths))
    generation = generations.make(verified, plan, paths, progress=heard.append)
    generations.activate(paths, generation.number, revocations=verified.state.revocations)
    assert {"copy", "unpack", "compile", "sync"} <= {event.stage for event in heard}

    nowhere = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    command = [str(paths.current / "venv" / "bin" / "plugsky"), "--version"]
    done = subprocess.run(command, env=nowhere, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("plugsky ")
    listing = (
        "import json, sys, numpy, llama_cpp, plugsky; from plugsky.core.paths import data_directory as directory;"
        "print(json.dumps([plugsky.__file__, sys.prefix, str(directory('recipes')), str(directory('playbooks'))]))"
    )
    python = [str(generation.path / "venv" / "bin" / "python"), "-I", "-c", listing]
    done = subprocess.run(python, env=nowhere, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(place.startswith(str(generation.path)) for place in json.loads(done.stdout))
    assert list(generation.path.glob("venv/lib/python*/site-packages/plugsky/cli/__pycache__/*.pyc"))

    (entry,) = catalogue.models(paths)
    assert (entry.id, entry.context, entry.quantisation) == ("smollm2-135m-instruct", 8192, "Q4_1")
    assert entry.path.stat().st_nlink == 2

    before = sum(1 for _ in paths.root.rglob("*"))
    again = plan_install(verified, generations.facts(paths))
    assert again.installed
    assert generations.make(verified, again, paths) == generation
    assert sum(1 for _ in paths.root.rglob("*")) == before


def test_a_lock_with_a_hash_that_no_wheel_has_stops_the_installation(demo, tmp_path):
    """The lock is signed with the wheels; were it ever to disagree with them, pip refuses and nothing stays."""
    _, _, verified = demo
    paths = SitePaths.at(tmp_path / "site", tmp_path / "run")
    other = {path: entry for path, entry in verified.entries.items() if not path.startswith("python/urllib3-")}
    shorter = dataclasses.replace(verified, entries=other)
    plan = plan_install(shorter, generations.facts(paths))
    with pytest.raises(InstallError, match="urllib3"):
        generations.make(shorter, plan, paths)
    assert list(paths.generations.iterdir()) == list(paths.store.iterdir()) == []
    assert not paths.staging.exists()


def test_a_disk_that_fills_up_while_unpacking_is_refused_and_leaves_nothing(demo, tmp_path):
    _, _, verified = demo
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=250m", "tmpfs", str(small)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        paths = SitePaths.at(small / "site", tmp_path / "run")
        facts = generations.facts(paths)
        with pytest.raises(NoSpace, match="does not fit"):
            plan_install(verified, facts)
        plan = plan_install(verified, dataclasses.replace(facts, free_bytes=1 << 40))
        with pytest.raises(NoSpace, match="disk is full"):
            generations.make(verified, plan, paths)
        assert list(paths.generations.iterdir()) == list(paths.store.iterdir()) == []
        assert not paths.staging.exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
