"""``plugsky gateway run``: one gateway process. ``plugsky serve`` and systemd start it, with its listener."""

import os

import typer

from plugsky.cli.options import RootOption, existing_site
from plugsky.cli.process_log import log_to_stderr
from plugsky.core.activation import inherited_listener
from plugsky.core.errors import ExitCode
from plugsky.core.policy import EffectivePolicy
from plugsky.engine import sandbox
from plugsky.server import gateway

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run one gateway process.")


@app.callback()
def _group() -> None:
    """Keep ``run`` a command of its own."""


@app.command()
def run(
    root: RootOption = None,
    exit_with_parent: bool = typer.Option(False, "--exit-with-parent", help="End when the starting process ends."),
) -> None:
    """Serve the site's API on the socket handed over as descriptor 3.

    Example: systemd-socket-activate -l 127.0.0.1:8080 plugsky gateway run --root /srv/site
    """
    parent = os.getppid()
    if exit_with_parent and not sandbox.die_with_parent(parent):
        raise typer.Exit(ExitCode.FAILED)
    log_to_stderr()
    gateway.run(existing_site(root), inherited_listener(), EffectivePolicy())
