"""``plugsky audit``: the trail of the site, searched and verified."""

from typing import Annotated

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.core.errors import ExitCode

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Search and verify the audit trail."
)


@app.command()
def verify(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """Verify every chain of the site, from trust init to the last request, and the ledger against it.

    Ends with exit code 5 when anything was edited, deleted, reordered or cut, and says where.

    Example: plugsky audit verify --root /var/lib/plugsky
    """
    verdict = ask(root, lambda admin: admin.audit_verify())
    if as_json:
        tell_json("plugsky.audit.verify/1", msgspec.to_builtins(verdict))
    else:
        table(
            ("chain", "records", "verdict", "head"),
            [(c.chain, c.records, "intact" if c.ok else "BROKEN", c.head[:16]) for c in verdict.chains],
        )
        for link in verdict.links:
            tell(f"proved: {link}")
        for problem in verdict.problems:
            say(f"problem: {problem}")
        say("The trail is intact." if verdict.ok else "The trail cannot be trusted as it stands.")
    if not verdict.ok:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="Text that a record must hold; all records when left out.")] = "",
    action: Annotated[str, typer.Option("--action", help="Only this action, for example key.create.")] = "",
    since: Annotated[str | None, typer.Option("--since", help="From this moment on (RFC 3339).")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many, newest first.")] = 100,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Search the trail, newest records first.

    Example: plugsky audit search --action request.done --limit 10
    """
    records = ask(root, lambda admin: admin.audit_search(text, action, since, limit))
    if as_json:
        tell_json("plugsky.audit.search/1", {"records": msgspec.to_builtins(records)})
        return
    table(
        ("time", "chain", "seq", "actor", "action", "subject", "outcome"),
        [(r.time, r.chain, r.seq, r.actor, r.action, r.subject, r.outcome) for r in records],
    )
