"""``plugsky alias``: other names of models."""

from typing import Annotated

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Give models other names, so that old programs keep theirs.",
)
TenantOption = Annotated[str, typer.Option("--tenant", help="Only for this tenant; for all when left out.")]


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List aliases.

    Example: plugsky alias list
    """
    aliases = ask(root, lambda admin: admin.alias_list())
    if as_json:
        tell_json("plugsky.alias.list/1", {"aliases": msgspec.to_builtins(aliases)})
        return
    table(
        ("alias", "tenant", "model", "defaults", "created"),
        [(a.name, a.tenant or "all", a.model, _told(a.defaults), a.created) for a in aliases],
    )


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="The name that programs use, for example gpt-4o.")],
    model: Annotated[str, typer.Argument(help="The id of the model that answers.")],
    tenant: TenantOption = "",
    default: Annotated[
        list[str] | None,
        typer.Option("--default", help="NAME=NUMBER for requests that do not give it, as temperature=0.3."),
    ] = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a model answer to another name, or point that name elsewhere.

    Example: plugsky alias set gpt-4o smollm2-135m-instruct-q4-1 --default temperature=0.3
    """
    defaults = dict(map(_default, default or ()))
    alias = ask(root, lambda admin: admin.alias_set(name, model, tenant, defaults))
    if as_json:
        tell_json("plugsky.alias.set/1", msgspec.to_builtins(alias))
    else:
        say(f"{alias.name} is {alias.model} for {alias.tenant or 'every tenant'}, defaults {_told(alias.defaults)}.")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The alias.")],
    tenant: TenantOption = "",
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Forget an alias; requests that name it are refused within a second.

    Example: plugsky alias remove gpt-4o
    """
    alias = ask(root, lambda admin: admin.alias_remove(name, tenant))
    if as_json:
        tell_json("plugsky.alias.remove/1", msgspec.to_builtins(alias))
    else:
        say(f"{alias.name} is no name of {alias.model} any more for {alias.tenant or 'every tenant'}.")


def _default(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise typer.BadParameter(f"--default is NAME=NUMBER, not {text!r}") from None


def _told(defaults: dict[str, float]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in sorted(defaults.items())) or "-"
