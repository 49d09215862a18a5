"""``plugsky usage``: what was used, from the ledger."""

from typing import Annotated

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell_json

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Report what was used, from the ledger."
)


@app.callback()
def _group() -> None:
    """Keep ``report`` a command of its own."""


@app.command()
def report(
    since: Annotated[str | None, typer.Option("--since", help="From this moment on (RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before this moment (RFC 3339).")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")] = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Sum the settled requests by tenant, key and model.

    Example: plugsky usage report --since 2026-11-01T00:00:00Z --json
    """
    usage = ask(root, lambda admin: admin.usage_report(since, until, tenant))
    if as_json:
        tell_json("plugsky.usage.report/1", msgspec.to_builtins(usage))
        return
    table(
        ("tenant", "key", "model", "requests", "prompt", "cached", "completion", "reasoning", "images", "engine ms"),
        [
            (
                row.tenant,
                row.key_id,
                row.model,
                row.requests,
                row.prompt_tokens,
                row.cached_tokens,
                row.completion_tokens,
                row.reasoning_tokens,
                row.image_tokens,
                round(row.engine_us / 1000),
            )
            for row in usage.rows
        ],
    )
    if usage.open_reservations:
        say(f"{usage.open_reservations} requests are still running and are in no row.")
