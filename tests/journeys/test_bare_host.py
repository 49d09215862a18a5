"""The first hour in the facility: a minimal Debian without Python and without any network, a stick and a paper.

The hosts are real root file systems of Debian 12 and 13, made from Debian's signed packages and nothing else, in
namespaces of their own: an empty network, their own mounts and processes; the stick is mounted read-only. One bundle
is for both, built, signed and sealed by the public commands; what runs on a host is its `install.sh`, by Debian's own
sh. What can go wrong is shown on Debian 12 alone.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugsky.core import settings
from plugsky_builder import base_system
from plugsky_builder.cache import Cache
from plugsky_builder.debs import releases, renewal, state
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.recipe import load
from plugsky_builder.targets import Target
from plugsky_bundles.errors import SourceError
from plugsky_bundles.progress import silent

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
SITE = "/srv/a site"
TARGETS = {os: Target(os, "amd64", python) for os, python in (("debian-12", "3.11"), ("debian-13", "3.13"))}
TARGET_TEXT = """
[[target]]
os = "{0.os}"
python = "{0.python}"
arch = "amd64"
accelerator = "cpu"
"""
PARTS = (
    "".join(map(TARGET_TEXT.format, TARGETS.values()))
    + """
[debs]
packages = []
"""
)
# Within the namespaces: the host's root, the stick read-only, and what a kernel gives every host.
INSIDE = """
mount --bind "$STICK" "$HOST/media" && mount -o remount,ro,bind "$HOST/media" || exit 99
mount -t proc proc "$HOST/proc" && mount -t tmpfs -o noexec tmpfs "$HOST/mnt" || exit 99
mount --bind /dev/null "$HOST/dev/null" && mount --bind /dev/urandom "$HOST/dev/urandom" || exit 99
exec chroot "$HOST" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The operator's connected machine; says what it lacks."""
    if os.geteuid() != 0:
        pytest.skip("root file systems and namespaces need root")
    if os.uname().machine != "x86_64":
        pytest.skip("the host of this journey is amd64")
    for tool in ("unshare", "mmdebstrap", "gpg", "chroot"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    namespaces = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True)
    if namespaces.returncode != 0:
        pytest.skip("this machine allows no namespaces")
    return tmp_path_factory.mktemp("bare")


@pytest.fixture(scope="module")
def mirror():
    return Mirror(Cache(settings.load({}).values.cache), releases.ARCHIVES, silent)


@pytest.fixture(scope="module")
def recipe(desk, mirror):
    """The demo for both, with the packages that a bare host lacks, as Debian has them today."""
    path = desk / "bare.toml"
    text = (ROOT / "bundles/recipes/demo.toml").read_text().replace("../locks", str(ROOT / "bundles/locks"))
    path.write_text(text + PARTS)
    try:
        renewal.renew(load(path), mirror.cache.root, now=datetime.now(UTC), progress=silent)
    except SourceError as error:
        pytest.skip(f"Debian's packages cannot be obtained: {error}")
    return path


@pytest.fixture(scope="module")
def bare(desk, mirror):
    """The tar of a host's root file system."""

    def made(system: str) -> Path:
        target = TARGETS[system]
        try:
            return base_system.obtain(target, state.newest(target, mirror, None)[0], (), mirror, silent)
        except SourceError as error:
            pytest.skip(f"a minimal Debian cannot be made: {error}")

    return made


@pytest.fixture(scope="module")
def stick(desk, recipe):
    """The sealed bundle, built by the operator's commands."""
    own = {"PLUGSKY_TRUST": str(desk / "trust"), "PLUGSKY_PASSPHRASE": "correct horse battery staple"}

    def operator(*command):
        done = subprocess.run(
            [sys.executable, "-m", "plugsky", *map(str, command)], env={**os.environ, **own}, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    operator("trust", "init", "--out", desk / "trust")
    bundle = Path(json.loads(operator("bundle", "build", recipe, "--out", desk / "media", "--json"))["path"])
    operator("trust", "sign", bundle)
    operator("bundle", "seal", bundle)
    return bundle


@pytest.fixture(scope="module")
def paper(stick, desk):
    """What travels apart from the stick."""
    roots = sorted((desk / "trust/metadata").glob("*.root.json"))
    return hashlib.sha256(roots[0].read_bytes()).hexdigest()


class Host:
    """A host without a network; `run` is a shell on it."""

    def __init__(self, tar: Path, folder: Path):
        self.root = folder
        folder.mkdir()
        subprocess.run(["tar", "--numeric-owner", "--xattrs", "-C", folder, "-xf", tar], check=True)
        for name in ("dev/null", "dev/urandom"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).touch()

    def start(self, stick: Path, *command: str) -> subprocess.Popen:
        namespaces = ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        environment = {"PATH": os.environ["PATH"], "STICK": str(stick), "HOST": str(self.root)}
        return subprocess.Popen(
            [*namespaces, "sh", "-c", INSIDE, "sh", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, stick: Path, *command: str, expect: int = 0) -> str:
        process = self.start(stick, *command)
        said, _ = process.communicate(timeout=900)
        assert process.returncode == expect, said
        return said

    def has(self, path: str) -> bool:
        return os.path.lexists(self.root / path)

    def packages(self) -> str:
        return (self.root / "var/lib/dpkg/status").read_text()


@pytest.fixture(scope="module")
def host(bare, desk):
    """One host for the whole story, in the order of the tests."""
    return Host(bare("debian-12"), desk / "host")


@pytest.fixture
def fresh(bare, tmp_path):
    return Host(bare("debian-12"), tmp_path / "host")


def installing(paper, *more):
    return ("sh", "/media/install.sh", "--pin", paper, "--root", SITE, "--yes", *more)


def damaged(stick: Path, folder: Path, name: str, *, at: int = -100) -> Path:
    """The stick with one byte of one file changed."""
    copy = Path(shutil.copytree(stick, folder / "stick", copy_function=os.link))
    data = bytearray((copy / name).read_bytes())
    data[at] ^= 1
    (copy / name).unlink()
    (copy / name).write_bytes(data)
    return copy


def blob_of(stick: Path, ending: str) -> str:
    """Where the only blob of the first file lies whose path ends so."""
    for role in ("python", "debs"):
        targets = json.loads((stick / f"metadata/1.{role}.json").read_bytes())["signed"]["targets"]
        for path, entry in sorted(targets.items()):
            if path.endswith(ending) and "chunks" not in entry.get("custom", {}):
                digest = entry["hashes"]["sha256"]
                return f"blobs/{digest[:2]}/sha256-{digest}"
    raise AssertionError(ending)


@pytest.mark.parametrize("what", ["verifier", "package"])
def test_one_changed_byte_is_refused_before_anything_changes_on_the_host(fresh, stick, paper, tmp_path, what):
    deb = next(line for line in (stick / "install.sh").read_text().splitlines() if "python3.11-minimal_" in line)
    digest = deb.split()[3]
    name = {"verifier": "tools/plugsky_verify.py", "package": f"blobs/{digest[:2]}/sha256-{digest}"}[what]
    before = fresh.packages()
    said = fresh.run(damaged(stick, tmp_path, name), *installing(paper), expect=5)
    assert f"error: {name} was changed" in said
    assert fresh.packages() == before
    assert not fresh.has("usr/bin/python3")
    assert not fresh.has(SITE.lstrip("/"))


def test_a_host_has_neither_python_nor_a_network(host, stick):
    assert (
        host.run(stick, "sh", "-c", "command -v python3 || ls /sys/class/net 2>/dev/null | grep -v lo || echo none")
        == "none\n"
    )


def test_killed_half_way_through_the_packages_and_run_again_it_reaches_the_first_generation(host, stick, paper):
    process = host.start(stick, *installing(paper))
    for line in process.stdout:
        if line.startswith("installing packages, step 2"):
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert host.has(SITE.lstrip("/")), "what a kill leaves behind is there"
    said = host.run(stick, *installing(paper))
    assert "ok  every byte of python" in said
    assert f"generation 1 of {SITE} is now current" in said
    assert sorted(p.name for p in (host.root / SITE.lstrip("/")).iterdir() if p.name.startswith("bootstrap")) == []


def test_the_new_site_is_healthy_and_lists_its_generation(host, stick):
    plugsky = f"{SITE}/current/venv/bin/plugsky"
    listed = json.loads(host.run(stick, plugsky, "generation", "list", "--root", SITE, "--json"))
    assert [generation["number"] for generation in listed["generations"]] == [1]
    host.run(stick, plugsky, "doctor", "--quick", "--root", SITE, "--json")


def test_a_bare_debian_13_takes_its_own_parts_of_the_same_stick(bare, stick, paper, tmp_path):
    host = Host(bare("debian-13"), tmp_path / "host")
    host.run(stick, "sh", "-c", "command -v python3", expect=127)
    said = host.run(stick, *installing(paper))
    assert "Python 3.13 is missing here" in said
    assert f"generation 1 of {SITE} is now current" in said
    venv = f"{SITE}/current/venv/bin"
    assert host.run(stick, f"{venv}/python", "-V").startswith("Python 3.13.")
    listed = json.loads(host.run(stick, f"{venv}/plugsky", "generation", "list", "--root", SITE, "--json"))
    assert [generation["number"] for generation in listed["generations"]] == [1]
    host.run(stick, f"{venv}/plugsky", "doctor", "--quick", "--root", SITE, "--json")


def test_installing_the_same_again_changes_nothing(host, stick, paper):
    before = host.packages()
    assert "is generation 1 already" in host.run(stick, *installing(paper))
    assert host.packages() == before


@pytest.mark.parametrize("ending", ["/requirements.txt", "x86_64.whl", "any.whl"])
def test_one_changed_byte_of_a_python_part_is_refused_before_it_runs(host, stick, paper, tmp_path, ending):
    name = blob_of(stick, ending)
    said = host.run(damaged(stick, tmp_path, name), *installing(paper)[:-3], "--root", "/srv/other", "--yes", expect=5)
    assert "Bytes are not the ones that were signed" in said
    assert name in said
    assert "making a small Python environment" not in said
    assert not host.has("srv/other")


def test_another_root_than_the_papers_is_refused(host, stick):
    said = host.run(stick, "sh", "/media/install.sh", "--pin", "0" * 64, "--root", "/srv/other", "--yes", expect=5)
    assert "The bundle is not signed for here" in said
    assert not host.has("srv/other")


def test_where_no_program_may_run_it_says_so(host, stick, paper):
    said = host.run(stick, "sh", "/media/install.sh", "--pin", paper, "--root", "/mnt/site", "--yes", expect=1)
    assert "noexec" in said


def test_someone_without_privileges_installs_where_python_is(host, stick, paper):
    """From a copy of install.sh in a directory of their own, with a name that shells find hard."""
    home = "/home/it's me"
    with (host.root / "etc/passwd").open("a") as file:
        file.write(f"sami:x:1000:1000::{home}:/bin/sh\n")
    script = f'mkdir -p "{home}" && cp /media/install.sh "{home}" && chown -R 1000 "{home}" && cd "{home}" && exec "$@"'
    someone = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", f"HOME={home}")
    command = ("sh", "install.sh", "--bundle", "/media", "--pin", paper, "--root", "my site", "--yes")
    said = host.run(stick, "sh", "-c", script, "sh", *someone, *command)
    assert f"generation 1 of {home}/my site is now current" in said
