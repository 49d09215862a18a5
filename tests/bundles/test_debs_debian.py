"""The real Debian, for other releases than this machine's: resolved from the mirror, then installed without a network.

What is downloaded and the minimal hosts that are made stay in the builder's own cache.
"""

import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bundles.test_rehearsal import command_wheel, pip_wheel, python_parts
from plugsky.core import settings
from plugsky_builder import recipe as recipes
from plugsky_builder import rehearsal, rehearsal_host
from plugsky_builder.cache import Cache
from plugsky_builder.debs import parts, releases, renewal
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.debs.openpgp import RepositoryKey
from plugsky_builder.pack import Material
from plugsky_bundles import ceremony
from plugsky_bundles.errors import RehearsalFailed, SourceUnreachable
from plugsky_bundles.progress import silent
from plugsky_bundles.trustdir import open_trust

pytestmark = pytest.mark.integration

PASSPHRASE = b"correct horse"
TOOLS = ("apt-get", "gpg", "gpgv", "mmdebstrap", "setpriv")


class Bench:
    """A recipe for one release, locked and gathered from the real mirror."""

    def __init__(self, base, system):
        now = datetime.now(UTC)
        (base / "lab.toml").write_text(
            f'channel = "lab"\n[[target]]\nos = "{system}"\n[debs]\npackages = ["nftables"]\n'
        )
        self.recipe = recipes.load(base / "lab.toml")
        self.cache = Cache(settings.load({}).values.cache)
        renewal.renew(self.recipe, self.cache.root, now=now, progress=silent)
        ceremony.init(base / "trust", PASSPHRASE, now=now)
        key = RepositoryKey(open_trust(base / "trust"), lambda: PASSPHRASE, now)
        mirror = Mirror(self.cache, releases.mirrors(self.recipe.debs), silent)
        self.debs = parts.gather(self.recipe.debs, self.recipe.targets, mirror, key, silent)
        pip_wheel(base)
        command_wheel(base, "import ssl, sqlite3; print('plugsky', ssl.OPENSSL_VERSION_INFO[0])")
        (self.target,) = self.recipe.targets
        self.materials = [*self.debs.materials, *python_parts(base, f"python/{self.target.folder}")]

    def rehearse(self, materials=None):
        given = self.materials if materials is None else materials
        return rehearsal.rehearse(given, self.recipe.targets, self.debs, self.cache, silent, required=True)


@pytest.fixture(scope="module", params=["debian-13", "debian-12"])
def bench(request, tmp_path_factory):
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    if why := rehearsal_host.obstacle(root=True):
        pytest.skip(why)
    try:
        return Bench(tmp_path_factory.mktemp(request.param), request.param)
    except SourceUnreachable as error:
        pytest.skip(f"Debian's mirror cannot be reached: {error}")


ONCE = pytest.mark.parametrize("bench", ["debian-13"], indirect=True, scope="module")


def test_a_bare_host_of_that_release_gets_python_then_packages_then_the_command(bench):
    (outcome,) = bench.rehearse().outcomes
    assert outcome.steps == ("network", "bootstrap", "apt", "python", "plugsky")
    assert outcome.facts["python"] == bench.target.release.python
    assert outcome.facts["plugsky"] == "plugsky 3"
    assert "a minimal debian" in outcome.host


@ONCE
def test_apt_there_refuses_a_repository_that_another_key_signed(bench, tmp_path):
    ceremony.init(tmp_path / "trust", PASSPHRASE, now=datetime.now(UTC))
    stranger = RepositoryKey(open_trust(tmp_path / "trust"), lambda: PASSPHRASE, datetime.now(UTC))
    key = Material.of_bytes(parts.KEYRING_PATH, stranger.public())
    materials = [m for m in bench.materials if m.path != parts.KEYRING_PATH]
    with pytest.raises(RehearsalFailed, match=r"fails at the step 'apt'.*not signed"):
        bench.rehearse([*materials, key])


@ONCE
def test_apt_there_refuses_a_package_that_is_not_the_listed_one(bench):
    (nft,) = (m for m in bench.materials if m.path.rpartition("/")[2].startswith("nftables_"))
    assert not isinstance(nft.content, bytes)
    data = nft.content.read_bytes()
    damaged = replace(Material.of_bytes(nft.path, data[:-1] + bytes([data[-1] ^ 1])), custom=nft.custom)
    with pytest.raises(RehearsalFailed, match=r"fails at the step 'apt'.*[Hh]ash"):
        bench.rehearse([*(m for m in bench.materials if m is not nft), damaged])


def test_every_package_there_is_what_debian_ships(bench):
    debs = bench.debs.targets[0].lock.debs
    assert {"python3", "libgomp1", "nftables", "libc6"} <= {deb.name for deb in debs}
    assert bench.debs.targets[0].indexes[0].signed.suite.name == releases.release_of(bench.target.os).codename
