"""``plugsky admin run``: the Admin process of a host, which systemd starts when somebody asks. Beside it run the units
of the gateway and of the engines; it starts and ends nothing, and looks at them as anybody may."""

import asyncio
import os
import socket
from contextlib import AsyncExitStack

import typer

from plugsky.admin.assembly import admin_service
from plugsky.admin.facts import FilesOfSite
from plugsky.admin.gateway_client import GatewayClient
from plugsky.admin.server import AdminServer, check_somebody_can_log_in
from plugsky.cli.options import RootOption, existing_site
from plugsky.cli.process_log import log_to_stderr
from plugsky.core import settings
from plugsky.core.clock import SystemClock
from plugsky.core.listeners import inherited_listener
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.core.processes import on_wish_to_end
from plugsky.core.settings import Settings
from plugsky.engine.life.units import UnitsOfHost
from plugsky.fleet import generations
from plugsky.fleet.lock import serving
from plugsky.policy import isolation

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Run the Admin process.")


@app.callback()
def _group() -> None:
    """Keep ``run`` a command of its own."""


@app.command()
def run(root: RootOption = None) -> None:
    """Answer the Admin verbs of an installed host on the socket handed over as descriptor 3.

    Example: systemd-socket-activate -l /run/plugsky/admin.sock plugsky admin run --root /var/lib/plugsky
    """
    chosen = settings.load({"root": root}).values
    log_to_stderr(chosen.log_format)
    asyncio.run(_run(existing_site(root), chosen, inherited_listener()))


async def _run(paths: SitePaths, chosen: Settings, listener: socket.socket) -> None:
    clock, policy, loop = SystemClock(), EffectivePolicy(), asyncio.get_running_loop()
    generation = generations.current(paths)
    facts = FilesOfSite(paths, clock, generation)
    engines = UnitsOfHost([entry.id for entry in facts.models()], paths.engine_socket)
    ending = asyncio.Event()
    on_wish_to_end(loop, ending.set)
    async with AsyncExitStack() as stack:
        if generation is not None:
            stack.enter_context(serving(generation.path))
        control = GatewayClient(paths.gateway_socket)
        stack.push_async_callback(control.close)

        async def probe() -> isolation.IsolationReading:
            return await asyncio.to_thread(isolation.probe, {os.getpid(): "admin"}, policy.bind_hosts)

        opening = admin_service(paths, "admin", clock, facts, probe, chosen, engines=engines, gateway=control)
        service = await asyncio.to_thread(opening.__enter__)
        stack.push_async_callback(asyncio.to_thread, opening.__exit__, None, None, None)
        required = chosen.logins == "required"
        if required:
            check_somebody_can_log_in(service)
        server = AdminServer(service, login_required=required)
        await server.start(listener)
        stack.push_async_callback(server.close)
        await ending.wait()
