"""Builds from the cache alone, and what happens when the cache is damaged: the same content, or everything named."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bundles.gguf_forge import STRING, Forge
from bundles.web_server import with_ranges
from bundles.wheel_forge import write_wheel
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_bundles import ceremony
from plugsky_bundles.errors import NotCached
from plugsky_bundles.progress import silent

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MODEL = Forge().with_key("general.name", STRING, "Far").build()
LICENCE = b"MIT\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Workshop:
    """A build machine with a server for its model and a folder for its package index."""

    def __init__(self, base: Path, site, index: Path) -> None:
        self.base, self.site = base, site
        self.cache, self.trust = base / "cache", base / "trust"
        ceremony.init(self.trust, b"correct horse", now=NOW)
        site.pages |= {"/far.gguf": with_ranges(MODEL), "/LICENSE": with_ranges(LICENCE)}
        part = write_wheel(index, "part", "1.0", {"part.py": b"x = 1\n"})
        (base / "lock.txt").write_text(f"part==1.0 --hash=sha256:{sha256(part.read_bytes())}\n")
        (base / "lab.toml").write_text(
            f"""
            channel = "lab"
            [[target]]
            os = "debian-12"
            [[target]]
            os = "debian-13"
            [[model]]
            id = "far"
            mode = "generate"
            context = 128
            licence = "MIT"
            languages = ["en"]
            health = false
            file = {{ source = "https", url = "{site.url("/far.gguf")}", sha256 = "{sha256(MODEL)}" }}
            licence-text = {{ source = "https", url = "{site.url("/LICENSE")}", sha256 = "{sha256(LICENCE)}" }}
            [python]
            lock = "lock.txt"
            appliance = false
            [rehearsal]
            skip = "a bundle without an appliance"
            """
        )

    def build(self, out: str = "out", *, offline: bool = False) -> building.Built:
        return building.build(
            recipe.load(self.base / "lab.toml"),
            self.base / out,
            self.trust,
            cache=self.cache,
            wheelhouse=self.base,
            now=NOW,
            offline=offline,
            progress=silent,
        )

    def cached(self, data: bytes) -> Path:
        return self.cache / "files" / f"sha256-{sha256(data)}"

    def asked(self, path: str) -> int:
        return sum(seen == path for _, seen, _ in self.site.seen)


@pytest.fixture
def workshop(tmp_path, tls, index):
    return Workshop(tmp_path, tls, index)


def test_everything_that_an_offline_build_lacks_is_named_at_once(workshop):
    with pytest.raises(NotCached) as caught:
        workshop.build(offline=True)
    assert caught.value.exit_code == 7
    for name in ("far.gguf of far", "LICENSE of far", "1 wheels for debian-12", "1 wheels for debian-13"):
        assert name in caught.value.why
    assert list((workshop.base / "out").iterdir()) == []
    assert workshop.site.seen == []


def test_an_offline_build_gives_the_same_content_without_a_network(workshop):
    """The second build runs as its own process in an empty network namespace: not even a loopback is up there."""
    first = workshop.build()
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], check=False).returncode != 0:
        pytest.skip("this machine makes no network namespaces")
    (workshop.base / "index").rename(workshop.base / "gone")
    seen = len(workshop.site.seen)
    command = ["unshare", "-rn", sys.executable, "-m", "plugsky", "bundle", "build", str(workshop.base / "lab.toml")]
    command += ["--out", str(workshop.base / "second"), "--trust", str(workshop.trust), "--cache", str(workshop.cache)]
    done = subprocess.run(
        [*command, "--offline", "--json"],
        env={**os.environ, "PLUGSKY_WHEELHOUSE": str(workshop.base)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content_id"] == first.content_id
    assert len(workshop.site.seen) == seen


def test_a_build_that_was_interrupted_goes_on_from_what_is_cached(workshop):
    workshop.site.pages["/LICENSE"] = with_ranges(b"GPL\n")
    with pytest.raises(Exception, match="LICENSE"):
        workshop.build()
    workshop.site.pages["/LICENSE"] = with_ranges(LICENCE)
    workshop.build()
    assert workshop.asked("/far.gguf") == 1


DAMAGES = {
    "a header that does not parse": lambda data: b"!" + data[1:],
    "one byte of the weights": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "a file that was cut short": lambda data: data[:-40],
    "nothing left": lambda _: b"",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_copy_in_the_cache_is_found_and_healed_in_the_same_build(workshop, name):
    first = workshop.build()
    workshop.cached(MODEL).write_bytes(DAMAGES[name](MODEL))
    second = workshop.build("second")
    assert second.content_id == first.content_id
    assert workshop.asked("/far.gguf") == 2
    assert workshop.cached(MODEL).read_bytes() == MODEL
    blobs = {path.name: path.read_bytes() for path in (second.path / "blobs").rglob("sha256-*")}
    assert all(name == f"sha256-{sha256(data)}" for name, data in blobs.items())


@pytest.mark.parametrize("name", DAMAGES)
def test_offline_a_damaged_copy_is_named_and_nothing_is_written(workshop, name):
    workshop.build()
    workshop.cached(MODEL).write_bytes(DAMAGES[name](MODEL))
    with pytest.raises(NotCached, match=r"far\.gguf"):
        workshop.build("second", offline=True)
    assert list((workshop.base / "second").iterdir()) == []
