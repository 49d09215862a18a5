"""``plugsky gateway run``: one gateway process. ``plugsky serve`` and systemd start it, with its listener."""

from typing import Annotated

import typer

from plugsky.cli.options import ParentOption, RootOption, existing_site
from plugsky.cli.process_log import log_to_stderr
from plugsky.cli.tls import tls_files
from plugsky.core import settings
from plugsky.core.errors import ExitCode
from plugsky.core.listeners import inherited_listeners
from plugsky.core.policy import EffectivePolicy
from plugsky.core.processes import die_with_parent
from plugsky.server import gateway

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Run one gateway process.")


@app.callback()
def _group() -> None:
    """Keep ``run`` a command of its own."""


@app.command()
def run(
    root: RootOption = None,
    generation: Annotated[
        int | None,
        typer.Option("--generation", min=1, help="Serve this generation's models. Default: the current one's."),
    ] = None,
    context: Annotated[int | None, typer.Option("--context", min=256, help="KV cells an engine is given.")] = None,
    exit_with_parent: ParentOption = None,
) -> None:
    """Serve the site's API on the socket handed over as descriptor 3.

    A second one, named `control` as the first is named `api`, is where Admin asks for the requests in flight.

    Example: systemd-socket-activate -l 127.0.0.1:8080 plugsky gateway run --root /srv/site
    """
    if exit_with_parent is not None and not die_with_parent(exit_with_parent):
        raise typer.Exit(ExitCode.FAILED)
    chosen = settings.load().values
    log_to_stderr(chosen.log_format)
    tls = tls_files(chosen)
    listener, control = inherited_listeners("api", "control")
    gateway.run(existing_site(root), listener, EffectivePolicy(), generation, context, tls, control)
