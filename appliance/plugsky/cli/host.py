"""``plugsky host``: from an installed generation to a running site, by Ansible, on this host or on those of a list."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from plugsky.cli.actor import actor
from plugsky.cli.around import around_of
from plugsky.cli.generation import trail
from plugsky.cli.options import existing_site, path
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, table, tell, tell_json
from plugsky.core import settings
from plugsky.core.clock import SystemClock
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SYSTEM_LOG, SYSTEM_ROOT, SitePaths, data_directory
from plugsky.fleet import generations, switching
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky.fleet.playbook_run import Outcome, RunEvent, TaskBegun, Wish, run
from plugsky_bundles.progress import Progress, ProgressEvent

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Set up, check and change the hosts of the site.",
)
SLOWEST: Final = 5
InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory", "-i", parser=path, metavar="FILE", help="The hosts, as Ansible lists them. Default: this host."
    ),
]
LimitOption = Annotated[str, typer.Option("--limit", metavar="HOSTS", help="Only these hosts of the inventory.")]
CheckFlag = Annotated[bool, typer.Option("--check", help="Change nothing; say what would be changed.")]
DiffFlag = Annotated[bool, typer.Option("--diff", help="Show in the log how files would change, or changed.")]


@app.command()
def preflight(
    inventory: InventoryOption = None,
    limit: LimitOption = "",
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Say whether the hosts are fit for the site. Reads; changes nothing.

    Example: plugsky host preflight
    """
    _run("preflight", Wish(_playbook("preflight"), inventory, limit), progress_style, as_json=as_json)


@app.command()
def install(
    inventory: InventoryOption = None,
    limit: LimitOption = "",
    check: CheckFlag = False,
    diff: DiffFlag = False,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Set the hosts up: users, directories, units; what is so already is left alone.

    It can be run again at any time, also after it was interrupted.

    Example: plugsky host install --check
    """
    wish = Wish(_playbook("site"), inventory, limit, check=check, diff=diff)
    _run("install", wish, progress_style, as_json=as_json)


@app.command()
def verify(
    inventory: InventoryOption = None,
    limit: LimitOption = "",
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Say whether the hosts are as `install` leaves them, and whether they serve. Reads; changes nothing.

    Example: plugsky host verify
    """
    _run("verify", Wish(_playbook("verify"), inventory, limit), progress_style, as_json=as_json)


@app.command()
def rollback(
    to: Annotated[
        int | None, typer.Option("--to", min=1, metavar="N", help="The generation. Default: the one before.")
    ] = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Go back to a kept generation on this host, within seconds; the database stays as it is.

    What was revoked since is refused. The processes follow and have to answer, else everything is as it was.

    Example: plugsky host rollback
    """
    paths = existing_site(SYSTEM_ROOT)
    shown = progress(progress_style)
    around = around_of(paths, shown)
    if around is None:
        raise PlugskyError(
            ErrorKind.NOT_FOUND,
            "This host is not set up yet.",
            why=f"no units serve {paths.root}",
            next=command_line("host", "install"),
        )
    current = generations.current_number(paths)
    number = to or _before(paths, current)
    _, verdict = switching.activate(
        paths, number, lambda: trail(paths), actor(), progress=shown, around=around, known_good=True
    )
    if as_json:
        tell_json("plugsky.host.rollback/1", {"generation": number, "was": current, "switched": verdict is not None})
    elif verdict is None:
        tell(f"generation {number} is current already; nothing was changed.")
    else:
        tell(f"generation {number} of {paths.root} is current again, and answers; {current} is kept")


def _before(paths: SitePaths, current: int | None) -> int:
    """The newest complete generation older than the current one."""
    older = [one.number for one in generations.complete(paths) if current is not None and one.number < current]
    if not older:
        raise PlugskyError(
            ErrorKind.NOT_FOUND,
            "There is no generation to go back to.",
            why="none that is older than the current one is kept",
            next=command_line("generation", "list"),
        )
    return older[-1]


def _playbook(name: str) -> Path:
    return data_directory("playbooks") / f"{name}.yml"


def _run(verb: str, wish: Wish, style: ProgressStyle, *, as_json: bool) -> None:
    if wish.inventory is None and os.geteuid() != 0 and verb != "preflight":
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"`plugsky host {verb}` needs root on this host.",
            why="it looks after users, units and files of the system",
            next=f"sudo {command_line('host', verb)}",
        )
    log = _log_file(verb)
    with sigterm_interrupts():
        outcome = run(wish, log, _shown(progress(style)))
    if not outcome.well:
        raise _failed(verb, wish, outcome)
    if as_json:
        tell_json(f"plugsky.host.{verb}/1", _as_json(outcome))
        return
    _tell(outcome)


def _log_file(verb: str) -> Path:
    """Where Ansible's own words go."""
    folder = SYSTEM_LOG if os.geteuid() == 0 else settings.load().values.cache / "runs"
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    return folder / f"host-{verb}-{SystemClock().now():%Y%m%dT%H%M%S%fZ}.log"


def _shown(shown: Progress) -> Callable[[RunEvent], None]:
    """Progress per host and role, from the run's events."""
    counts: Counter[str] = Counter()

    def tell_event(event: RunEvent) -> None:
        if isinstance(event, TaskBegun):
            counts[event.host] += 1
            where = f"{event.role}: {event.task}" if event.role else event.task
            shown(ProgressEvent(event.host, counts[event.host], 0, where))

    return tell_event


def _tell(outcome: Outcome) -> None:
    rows = [(name, host.ok, host.changed, host.skipped, host.failed) for name, host in sorted(outcome.recap.items())]
    table(("host", "ok", "changed", "skipped", "failed"), rows)
    tell(f"{outcome.seconds:.1f} s; the longest tasks:")
    for task in sorted(outcome.ended, key=lambda task: -task.seconds)[:SLOWEST]:
        tell(f"  {task.seconds:6.1f} s  {task.host}  {task.role or '-'}: {task.task}")
    say(f"Ansible's own words: {outcome.log}")


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "hosts": {name: asdict(host) for name, host in sorted(outcome.recap.items())},
        "tasks": [asdict(task) for task in outcome.ended],
        "seconds": outcome.seconds,
        "log": outcome.log,
    }


def _failed(verb: str, wish: Wish, outcome: Outcome) -> PlugskyError:
    """The first failure by name; the others are in the log."""
    if not outcome.failures:
        return PlugskyError(
            ErrorKind.INTERNAL,
            f"`plugsky host {verb}` could not begin.",
            why=f"ansible-playbook ended with {outcome.status}",
            next=f"read {outcome.log}",
        )
    first = outcome.failures[0]
    others = len(outcome.failures) - 1
    more = f"; and {others} more" if others else ""
    kind = ErrorKind.UNREACHABLE if first.state == "unreachable" else ErrorKind.INTERNAL
    again = ("--inventory", wish.inventory) if wish.inventory is not None else ()
    what = "could not be reached" if first.state == "unreachable" else f"failed: {first.task}"
    return PlugskyError(
        kind,
        f"{first.host} {what}.",
        why=f"{' '.join(first.message.split())}{more}",
        next=f"read {outcome.log}; then again: {command_line('host', verb, *again)}",
    )
