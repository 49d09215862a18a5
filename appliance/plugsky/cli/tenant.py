"""``plugsky tenant``: what tenants may use."""

from typing import Annotated

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.limits import limits
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell_json

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Set what tenants may use, and list them."
)


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List tenants with their budgets, limits and tokens of this month.

    Example: plugsky tenant list
    """
    tenants = ask(root, lambda admin: admin.tenant_list())
    if as_json:
        tell_json("plugsky.tenant.list/1", {"tenants": msgspec.to_builtins(tenants)})
        return
    table(
        ("tenant", "tokens a month", "used", "set aside", "weight", "limits", "created"),
        [
            (
                t.id,
                "-" if t.monthly_tokens is None else str(t.monthly_tokens),
                str(t.used),
                str(t.reserved),
                str(t.weight),
                limits(t),
                t.created,
            )
            for t in tenants
        ],
    )


_NONE = "A number, or `none` for no limit; as it is when left out."


@app.command("set")
def set_(
    tenant: Annotated[str, typer.Argument(help="Which tenant; it is made if it does not exist.")],
    monthly_tokens: Annotated[str | None, typer.Option("--monthly-tokens", help=f"Tokens a UTC month. {_NONE}")] = None,
    weight: Annotated[
        int | None, typer.Option("--weight", min=1, max=100, help="Its share of the engines beside others: 1 to 100.")
    ] = None,
    requests: Annotated[str | None, typer.Option("--requests-per-minute", help=f"Of all its keys. {_NONE}")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens-per-minute", help=f"Of all its keys. {_NONE}")] = None,
    concurrency: Annotated[str | None, typer.Option("--concurrency", help=f"Requests in flight. {_NONE}")] = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set a tenant's budget, weight and limits; what is left out stays as it is.

    Example: plugsky tenant set treasury --monthly-tokens 5000000 --requests-per-minute 60
    """
    given = {
        "monthly_tokens": monthly_tokens,
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
        "concurrency": concurrency,
    }
    terms = {name: _number(name, text) for name, text in given.items() if text is not None}
    if weight is not None:
        terms["weight"] = weight
    made = ask(root, lambda admin: admin.tenant_set(tenant, terms))
    if as_json:
        tell_json("plugsky.tenant.set/1", msgspec.to_builtins(made))
        return
    budget = "no monthly budget" if made.monthly_tokens is None else f"{made.monthly_tokens} tokens a month"
    say(f"Tenant {made.id}: {budget}, weight {made.weight}, limits {limits(made)}.")


def _number(name: str, text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"--{name.replace('_', '-')} is a number or `none`, not {text!r}")
    return int(text)
