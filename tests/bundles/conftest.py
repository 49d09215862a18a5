"""Fixtures that tests of bundles share; a module with another need has one of its own under the same name."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles.forge import Forge
from bundles.standing_site import StandingSite
from bundles.web_server import Authority, Site, serving
from plugsky_builder import https
from plugsky_builder.cache import Cache


@pytest.fixture(scope="module")
def forge(tmp_path_factory) -> Forge:
    return Forge(tmp_path_factory.mktemp("forge"))


@pytest.fixture(scope="module")
def right(forge) -> Path:
    """A right bundle, which stays as it is."""
    return forge.sealed()


@pytest.fixture
def bundle(right, tmp_path) -> Path:
    """A copy of the right bundle, to be spoiled."""
    return Path(shutil.copytree(right, tmp_path / right.name))


@pytest.fixture(scope="module")
def site(forge, tmp_path_factory) -> StandingSite:
    """A site that runs on a bundle of another channel by the same people."""
    site = StandingSite(tmp_path_factory.mktemp("site"), forge)
    site.install(site.bundle(channel="standing"), pin=forge.fingerprint)
    return site


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def tls(authority, monkeypatch, tmp_path) -> Iterator[Site]:
    """A TLS server whose authority the machine's administrator has named; a machine without proxy, netrc or token."""
    unset = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
    for name in (*unset, "HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    monkeypatch.setattr(https, "PAUSES", (0.0, 0.0))
    with serving(authority.server_context()) as site:
        yield site


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes for the package index; nothing outside it can be reached."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
