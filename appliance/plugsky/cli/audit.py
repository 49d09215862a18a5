"""``plugsky audit``: the trail of the site, searched, exported and verified."""

import json
from typing import Annotated, Final

import msgspec
import typer

from plugsky.admin.api import Admin
from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.core.errors import ExitCode

PAGE: Final = 200
app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Search, export and verify the audit trail."
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


Words = Annotated[str, typer.Argument(help="What a record must hold; all records when left out.")]
ActionOption = Annotated[str, typer.Option("--action", help="Only this action, for example key.create.")]
Since = Annotated[str | None, typer.Option("--since", help="From this moment on (RFC 3339).")]
Until = Annotated[str | None, typer.Option("--until", help="Before this moment (RFC 3339).")]


@app.command()
def search(
    text: Words = "",
    action: ActionOption = "",
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many, newest first.")] = 100,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Search the trail, newest records first.

    Every word must be in the record, whatever its case; `trea*` is a word that begins so, `tenant=treasury` a fact
    that is exactly this.

    Example: plugsky audit search "tenant=treasury smol*" --action request.done --limit 10
    """
    records = ask(root, lambda admin: admin.audit_search(text, action, since, until, limit=limit))
    if as_json:
        tell_json("plugsky.audit.search/1", {"records": msgspec.to_builtins(records)})
        return
    table(
        ("time", "chain", "seq", "actor", "action", "subject", "outcome"),
        [(r.time, r.chain, r.seq, r.actor, r.action, r.subject, r.outcome) for r in records],
    )


@app.command()
def export(
    text: Words = "",
    action: ActionOption = "",
    since: Since = None,
    until: Until = None,
    root: RootOption = None,
) -> None:
    """Write the records of the trail to stdout, oldest first, one JSON object per line (JSON Lines).

    They are those that `audit search` finds, without a limit. Each names its chain, its line there and that line's
    SHA-256, so that it can be held against a copy of the chain.

    Example: plugsky audit export --since 2026-11-01T00:00:00Z > november.jsonl
    """
    written = ask(root, lambda admin: _export(admin, text, action, since, until))
    say(f"{written} records.")


async def _export(admin: Admin, text: str, action: str, since: str | None, until: str | None) -> int:
    """Writes page after page; the next begins at the moment of the last record, behind those written of that moment."""
    written = skip = 0
    while True:
        page = await admin.audit_search(text, action, since, until, limit=PAGE, oldest_first=True, skip=skip)
        for record in page:
            tell(json.dumps(msgspec.to_builtins(record), ensure_ascii=False))
        written += len(page)
        if len(page) < PAGE:
            return written
        of_last_moment = sum(record.time == page[-1].time for record in page)
        skip = skip + of_last_moment if page[-1].time == since else of_last_moment
        since = page[-1].time
