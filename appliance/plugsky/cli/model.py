"""``plugsky model``: the models of the site and how their engines stand."""

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, size, table, tell_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show the models of the site.")


@app.callback()
def _group() -> None:
    """Keep ``list`` a command of its own."""


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List the catalogue of the running generation and the state of each engine.

    Example: plugsky model list --json
    """
    models = ask(root, lambda admin: admin.model_list())
    if as_json:
        tell_json("plugsky.model.list/1", {"models": msgspec.to_builtins(models)})
        return
    table(
        ("model", "mode", "state", "size", "context", "licence", "languages", "problem"),
        [
            (m.id, m.mode, m.state, size(m.size), m.context, m.licence, ",".join(m.languages) or "-", m.problem or "-")
            for m in models
        ],
    )
