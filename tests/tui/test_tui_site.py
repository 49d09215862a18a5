"""The console on a real Admin service behind its real socket: the site goes and comes back."""

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.fresh_site import fresh_database, fresh_paths
from plugsky.admin.assembly import admin_service
from plugsky.admin.client import AdminClient
from plugsky.admin.facts import FilesOfSite
from plugsky.admin.server import AdminServer
from plugsky.core import settings
from plugsky.core.clock import SystemClock
from plugsky_tui.app import ConsoleApp
from plugsky_tui.terminal import TerminalProfile
from tui.fake_site import PROVEN


async def proven():
    """An isolation probe that finds nothing."""
    return PROVEN


@pytest.fixture
def paths():
    with tempfile.TemporaryDirectory(prefix="plugsky-") as folder:  # pytest's own are too long for a socket's address
        paths = fresh_paths(Path(folder))
        fresh_database(paths.database).close()
        yield paths


@asynccontextmanager
async def served(paths):
    """The site's Admin service on its socket."""
    clock = SystemClock()
    with admin_service(
        paths, "admin", clock, FilesOfSite(paths, clock), proven, settings.load({}, {}).values
    ) as service:
        server = AdminServer(service)
        await server.start()
        try:
            yield
        finally:
            await server.close()


async def shown(app, look, text):
    """Waits until the screen shows ``text``."""
    async with asyncio.timeout(30):
        while text not in look(app):  # noqa: ASYNC110 - a screen has no event to wait for
            await asyncio.sleep(0.05)


async def test_a_site_that_goes_and_comes_back_is_lost_and_found(paths, look):
    app = ConsoleApp(AdminClient.of(paths), TerminalProfile(tick=0.2))
    async with app.run_test(size=(80, 24)):
        await shown(app, look, "is not running")
        assert f"plugsky serve --root {paths.root}" in " ".join(look(app).split())
        async with served(paths):
            await shown(app, look, "PROVEN")
            assert "admin" in look(app)
            assert "the gateway is not running" in look(app)
        await shown(app, look, "✗ the site at")
        assert "PROVEN" in look(app)
        async with served(paths):
            await shown(app, look, "generation 0")
