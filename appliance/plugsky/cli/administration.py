"""How a command reaches the site's Admin: over its socket while the site runs, in this process while it does not.

A command cannot tell which of the two it has. In process, writes are recorded in the audit chain ``<host>.cli``.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from plugsky.admin.api import Admin
from plugsky.admin.assembly import admin_service
from plugsky.admin.client import AdminClient
from plugsky.admin.facts import FilesOfSite
from plugsky.admin.server import operator_of
from plugsky.cli.options import existing_site
from plugsky.core import env, settings
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.policy import isolation

ValueT = TypeVar("ValueT")


def ask(root: Path | None, question: Callable[[Admin], Awaitable[ValueT]]) -> ValueT:
    """The answer of the site's Admin to one question."""
    return asyncio.run(_ask(existing_site(root), question))


async def _ask(paths: SitePaths, question: Callable[[Admin], Awaitable[ValueT]]) -> ValueT:
    async with open_admin(paths) as admin:
        return await question(admin)


@asynccontextmanager
async def open_admin(paths: SitePaths) -> AsyncIterator[Admin]:
    """The Admin of a site: of the running one, else one of our own over its files."""
    if await is_running(paths):
        async with AdminClient.of(paths, env.SESSION.read()) as client:
            yield client
        return
    clock = SystemClock()
    policy = EffectivePolicy()

    async def probe() -> isolation.IsolationReading:
        return await asyncio.to_thread(isolation.probe, {}, policy.bind_hosts)

    with admin_service(paths, "cli", clock, FilesOfSite(paths, clock), probe, settings.load().values) as service:
        yield service.for_operator(operator_of(os.getuid(), paths.root.stat().st_uid, service.people))


async def is_running(paths: SitePaths) -> bool:
    """Whether somebody listens on the site's Admin socket."""
    try:
        _, writer = await asyncio.open_unix_connection(paths.admin_socket)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"the site at {paths.root} runs for another user",
            why=f"{paths.admin_socket} may not be opened",
            next="run as the owner of the site, or as root",
        ) from error
    writer.close()
    await writer.wait_closed()
    return True
