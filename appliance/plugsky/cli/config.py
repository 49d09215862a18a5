"""``plugsky config``: the settings in force and where each comes from."""

from typing import Annotated

import typer

from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, table, tell_json
from plugsky.core import settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Show settings and where each comes from."
)


@app.command()
def show(
    root: RootOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Also say where each value comes from.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show every setting.

    A flag beats the environment, which beats the user's file, which beats /etc/plugsky/plugsky.toml.

    Example: plugsky config show --origin
    """
    sourced = settings.load({"root": root})
    values, origins = vars(sourced.values), sourced.origins
    if as_json:
        settings_ = {name: {"value": value, "origin": origins[name]} for name, value in values.items()}
        tell_json("plugsky.config/1", {"settings": settings_})
        return
    rows = [(name, "-" if value is None else value, origins[name]) for name, value in values.items()]
    table(("setting", "value", "from"), rows) if origin else table(("setting", "value"), [row[:2] for row in rows])


@app.callback()
def _group() -> None:
    """Keep ``show`` a command of its own."""
