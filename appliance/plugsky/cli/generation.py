"""``plugsky generation``: what is installed side by side, which one runs, and what may go."""

import sys
from typing import Annotated

import typer

from plugsky.audit import AuditLog
from plugsky.cli.actor import actor
from plugsky.cli.around import around_of
from plugsky.cli.options import RootOption, YesFlag, existing_site, site
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, table, tell, tell_json
from plugsky.core.clock import SystemClock
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, ExitCode, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import prune as pruning
from plugsky.fleet import switching
from plugsky.fleet.health import Verdict
from plugsky.fleet.survey import survey
from plugsky_bundles.sizes import size

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List, activate and remove the generations of the site.",
)


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List every generation: what it was installed from, what it takes of the disk, and its state.

    One of which the site knows something to be revoked is called so: it cannot be activated.
    OWN is what would be free again without it, SHARED what other generations hold too.

    Example: plugsky generation list --json
    """
    paths = site(root)
    listed = survey(paths)
    if as_json:
        tell_json("plugsky.generation.list/1", {"generations": [{**vars(one), "called": one.called} for one in listed]})
        return
    table(
        ("generation", "channel", "version", "bundle", "installed", "own", "shared", "state"),
        [
            (
                one.number,
                one.channel or "-",
                one.version or "-",
                one.bundle_id[:16] or "-",
                one.installed_at[:19] or "-",
                size(one.own_bytes),
                size(one.shared_bytes),
                one.called,
            )
            for one in listed
        ],
    )
    for one in listed:
        if one.problem:
            say(f"generation {one.number}: {one.problem}")


@app.command()
def activate(
    number: Annotated[int, typer.Argument(min=1, metavar="N", help="The generation's number, from the list.")],
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Make a kept generation the current one, once it has passed its health check.

    What was revoked since is refused; expiry does not matter. On a host that `plugsky host install` set up, the
    processes follow and have to answer, else everything is as it was. A site that `plugsky serve` runs goes on with
    what it has until it is started again.

    Example: plugsky generation activate 2 --root /srv/plugsky
    """
    paths = site(root)
    shown = progress(progress_style)
    generation, verdict = switching.activate(
        paths, number, lambda: trail(paths), actor(), progress=shown, around=around_of(paths, shown)
    )
    if as_json:
        health = verdict.to_json() if verdict else None
        tell_json("plugsky.generation.activate/1", {"generation": number, "activated": bool(verdict), "health": health})
        return
    if verdict is None:
        tell(f"generation {number} is current already; nothing was changed.")
        return
    tell(f"generation {number} of {paths.root} is now current: {generation.channel} version {generation.version}")
    tell_health(verdict)


@app.command()
def prune(
    root: RootOption = None,
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="How many of the newest good generations stay.")
    ] = pruning.KEEP,
    yes: YesFlag = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go and stop.")] = False,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Remove old, revoked, damaged and failed generations, and what of the store nothing needs any more.

    Only what could be activated counts as good: a revoked one goes, however new it is. The current generation always
    stays, and so does one that a running site serves. What would go is shown first, with the bytes that the disk really
    gets back.

    Example: plugsky generation prune --keep 2
    """
    paths = existing_site(root)
    plan = pruning.plan(paths, keep)
    if not as_json:
        _show(plan)
    asked = bool(plan.decision[1] or plan.store) and not dry_run
    if asked and not yes:
        _ask(paths, keep)
    if asked:
        pruning.prune(paths, plan, keep, lambda: trail(paths), actor(), progress=progress(progress_style))
    if as_json:
        body = {
            "kept": list(plan.kept),
            "gone": [one.number for one in plan.gone],
            "files": len(plan.store),
            "freed_bytes": plan.freed_bytes,
            "removed": asked,
        }
        tell_json("plugsky.generation.prune/1", body)
    elif asked:
        tell(f"removed {_count(len(plan.gone), 'generation')}; {size(plan.freed_bytes)} are free again")


def trail(paths: SitePaths) -> AuditLog:
    """The chain where this command records what it changes."""
    return AuditLog.open(paths, "cli", SystemClock(), spare=True)


def tell_health(verdict: Verdict) -> None:
    """What became of the health check; on stderr, because it is talk."""
    say(f"health: {verdict.summary}")
    for name, model in verdict.models.items():
        if model.state != "ok":
            say(f"  {name}: {model.why}")


def _show(plan: pruning.Plan) -> None:
    kept = ", ".join(str(number) for number in plan.kept) or "none"
    if plan.idle:
        say(f"nothing to remove; generations that stay: {kept}")
        return
    for one in plan.gone:
        say(f"generation {one.number} goes: {one.called}, {one.channel or '-'} version {one.version or '-'}")
    say(f"{_count(len(plan.store), 'file')} of the store that nothing else needs; generations that stay: {kept}")
    say(f"{size(plan.freed_bytes)} will be free again")


def _ask(paths: SitePaths, keep: int) -> None:
    if not sys.stdin.isatty():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "What would go was shown, and nobody is there to say yes.",
            why="standard input is no terminal",
            next=command_line("generation", "prune", "--root", paths.root, "--keep", keep, "--yes"),
        )
    if not typer.confirm("Remove it?", err=True):
        raise typer.Exit(ExitCode.DECLINED)


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
