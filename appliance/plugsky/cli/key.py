"""``plugsky key``: API keys of tenants' programs."""

from typing import Annotated

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.limits import ConcurrencyOption, RequestsOption, TokensOption, limits
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Make, list, replace and revoke API keys."
)


@app.command()
def create(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose key; the tenant is made if it does not exist.")],
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "",
    model: Annotated[list[str] | None, typer.Option("--model", help="A model it may use; all when left out.")] = None,
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="Days until it expires; never when left out.")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", help="An endpoint it may call, as chat or embeddings; all when left out."),
    ] = None,
    requests: RequestsOption = None,
    tokens: TokensOption = None,
    concurrency: ConcurrencyOption = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print it: this is the only time it can be seen.

    Example: plugsky key create --tenant treasury --name reports --days 90
    """
    models, endpoints = tuple(model) if model else None, tuple(endpoint) if endpoint else None
    key = ask(
        root,
        lambda admin: admin.key_create(tenant, name, models, days, endpoints, requests, tokens, concurrency),
    )
    if as_json:
        tell_json("plugsky.key.create/1", msgspec.to_builtins(key))
        return
    say(f"Key {key.id} for {key.tenant}. Keep it now; it cannot be shown again.")
    tell(key.secret)


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The id of the key to replace.")],
    overlap: Annotated[
        int, typer.Option("--overlap", min=0, help="Hours for which the old key goes on beside the new.")
    ] = 24,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Replace a key by a new one of the same scope and limits, and print that.

    Example: plugsky key rotate a1b2c3d4 --overlap 48
    """
    key = ask(root, lambda admin: admin.key_rotate(key_id, overlap))
    if as_json:
        tell_json("plugsky.key.rotate/1", msgspec.to_builtins(key))
        return
    say(f"Key {key.id} for {key.tenant} replaces {key_id}, which ends in {overlap} hours.")
    say("Keep it now; it cannot be shown again.")
    tell(key.secret)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's keys.")] = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List keys, without their secrets.

    Example: plugsky key list --tenant treasury
    """
    keys = ask(root, lambda admin: admin.key_list(tenant))
    if as_json:
        tell_json("plugsky.key.list/1", {"keys": msgspec.to_builtins(keys)})
        return
    table(
        ("id", "tenant", "name", "models", "endpoints", "limits", "created", "expires", "revoked", "replaced by"),
        [
            (
                k.id,
                k.tenant,
                k.name or "-",
                _scope(k.models),
                _scope(k.endpoints),
                limits(k),
                k.created,
                k.expires or "-",
                k.revoked or "-",
                k.replaced_by or "-",
            )
            for k in keys
        ],
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `key list` shows it.")],
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Revoke a key; requests with it are refused within a second.

    Example: plugsky key revoke a1b2c3d4
    """
    key = ask(root, lambda admin: admin.key_revoke(key_id))
    if as_json:
        tell_json("plugsky.key.revoke/1", msgspec.to_builtins(key))
    else:
        say(f"Key {key.id} of {key.tenant} is revoked since {key.revoked}.")


def _scope(names: tuple[str, ...] | None) -> str:
    return "all" if names is None else ",".join(names)
