"""``plugsky console``: the administrator's window on the running site."""

from enum import StrEnum
from typing import Annotated

import typer

import plugsky_tui
from plugsky.admin.client import AdminClient
from plugsky.cli.options import RootOption, existing_site
from plugsky.core import env
from plugsky_tui import terminal

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Line(StrEnum):
    """What kind of line the terminal hangs on."""

    LOCAL = "local"
    SSH = "ssh"
    SERIAL = "serial"


@app.command()
def console(
    root: RootOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines of text instead of a full screen.")] = False,
    profile: Annotated[Line | None, typer.Option("--profile", help="Draw for this line, whatever is found.")] = None,
) -> None:
    """Open the console. It works in any terminal; without a full screen it speaks in plain lines.

    Keys: ? is help, p pauses, q leaves.

    Example: plugsky console --root /srv/site
    """
    paths = existing_site(root)
    found = terminal.look()
    plugsky_tui.run(
        AdminClient.of(paths, env.SESSION.read()),
        terminal.decide(found, line=profile.value if profile else None, plain=plain),
    )
