"""``plugsky bundle install``: verified -> plan -> generation."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plugsky.audit import AuditLog
from plugsky.cli.actor import actor
from plugsky.cli.around import around_of
from plugsky.cli.bundle_options import MediaArgument, PinOption, asking, identity, mendable
from plugsky.cli.generation import tell_health
from plugsky.cli.options import RootOption, YesFlag, path, site
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, tell, tell_json
from plugsky.core.clock import SystemClock
from plugsky.core.commands import command_line, given
from plugsky.core.errors import ErrorKind, ExitCode, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import health, installation
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky_bundles.approval import read as read_approval
from plugsky_bundles.media import open_media
from plugsky_bundles.plan import Plan
from plugsky_bundles.sizes import size
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import check_still_valid

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def install(
    context: typer.Context,
    bundle: MediaArgument,
    pin: PinOption = None,
    root: RootOption = None,
    yes: YesFlag = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Compare every byte, and make the generation anew.")] = False,
    approval: Annotated[
        list[Path] | None,
        typer.Option("--approval", parser=path, metavar="FILE", help="An approval that does not lie with the bundle."),
    ] = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Install a bundle on this site: verify, show the plan, copy in one read, switch over.

    The first installation needs --pin, the fingerprint on paper; later ones trust what the site trusts. A bundle that
    is installed already is made anew when files of its generation are missing or have another length; --repair
    compares every byte and makes it anew in any case. A site that asks for approvals takes those in plugsky-returns/
    beside the bundle, and those named by --approval; none counts whose approver has the name of this account, or of the
    login that it came from. Of a split bundle, give any volume: the others are looked for
    beside it, then asked for. A stream on standard input (-) needs --yes.

    Example: plugsky bundle install /media/usb/plugsky-demo-1 --root /srv/plugsky --pin 3f2a…
    """
    context.with_resource(sigterm_interrupts())
    paths = site(root)
    again = asking("bundle", "install", bundle, "--root", paths.root, *given(pin=pin), *(("--yes",) if yes else ()))
    media = open_media(bundle, again)
    shown = progress(progress_style)
    with mendable(media, pin, None, root):
        verified = installation.verify_for(paths, media, pin)
        plan = installation.plan_for(verified, paths, repair=repair, progress=shown)
    if dry_run and as_json:
        tell_json("plugsky.bundle.plan/1", {"plan": plan.to_json()})
        return
    _show(plan, verified, paths)
    if dry_run:
        return
    approvals = [read_approval(file) for file in approval or ()]
    if not yes and plan.activates:
        _ask(bundle, paths, pin, repair=repair)
    check_still_valid(verified, datetime.now(UTC))
    with mendable(media, pin, None, root):
        generation = installation.install(
            verified,
            plan,
            paths,
            lambda: _trail(paths),
            actor(),
            approvals=approvals,
            progress=shown,
            around=(switched := around_of(paths, shown)),
        )
    if as_json:
        done = {"installed": not plan.installed, "activated": plan.activates, "repaired": plan.repairs}
        tell_json("plugsky.bundle.install/1", {"generation": generation.number, **done, **identity(verified)})
        return
    if not plan.activates:
        tell(f"bundle {verified.bundle_id[:16]} is generation {generation.number} already; nothing was written.")
        return
    tell(f"generation {generation.number} of {paths.root} is now current")
    if (verdict := health.kept(generation.path)) is not None:
        tell_health(verdict)
    following = ["doctor"] if switched else ["serve"]
    say(f"next: {shlex.join([str(generation.command), *following, '--root', str(paths.root)])}")


def _trail(paths: SitePaths) -> AuditLog:
    return AuditLog.open(paths, "cli", SystemClock(), spare=True)


def _show(plan: Plan, verified: VerifiedBundle, paths: SitePaths) -> None:
    """The plan, on stderr: what would change, before anyone is asked."""
    if not plan.activates:
        return
    verb = "is" if plan.installed else "becomes"
    say(
        f"plan {plan.digest[:16]}: {verified.channel} version {verified.version}"
        f" {verb} generation {plan.generation} of {paths.root}"
    )
    if plan.repairs is not None:
        say(f"  generation {plan.repairs} of the same bundle is made anew; its good files are used again")
    if plan.replaces not in (None, plan.generation):
        say(f"  generation {plan.replaces} is current until then, and is kept")
    if plan.installed:
        say("  nothing is copied: it was installed before")
        return
    held = len(plan.files) - len(plan.copied)
    say(f"  copy {len(plan.copied)} files, {size(plan.read_bytes)}; {held} are in the store, every byte compared")
    if plan.store_bytes:
        say(f"  of the new files, {size(plan.store_bytes)} are in the store already and are not read from the media")
    if spoiled := [file.path for file in plan.copied if file.spoiled]:
        say(f"  of these the store holds damaged ones, which are replaced: {', '.join(spoiled)}")
    say(f"  unpack the environment, about {size(plan.venv_bytes)}; {size(plan.need_bytes)} of free space needed in all")
    for warning in plan.warnings:
        say(f"  warning: {warning}")


def _ask(bundle: Path, paths: SitePaths, pin: str | None, *, repair: bool) -> None:
    repairing = ("--repair",) if repair else ()
    if not sys.stdin.isatty():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The plan waits for a yes and nobody is there to give it.",
            why="standard input is no terminal",
            next=command_line("bundle", "install", bundle, "--root", paths.root, *given(pin=pin), *repairing, "--yes"),
        )
    if not typer.confirm("Install it?", err=True):
        raise typer.Exit(ExitCode.DECLINED)
