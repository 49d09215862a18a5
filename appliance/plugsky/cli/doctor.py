"""``plugsky doctor``: what is healthy and what is not, with the next command for each."""

import asyncio
import dataclasses
import platform
from pathlib import Path
from typing import Annotated

import typer

from plugsky.admin import health, site_files
from plugsky.admin.api import Home
from plugsky.admin.client import AdminClient
from plugsky.admin.health import Finding
from plugsky.cli.administration import is_running
from plugsky.cli.options import RootOption, site
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, table, tell_json
from plugsky.core import env
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ExitCode, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles.progress import Progress

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    root: RootOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Compare installed files by size only.")] = False,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Look at the host, the site's files and the running site, and say what is healthy.

    Every installed file is read and compared with what was signed, which takes seconds per GiB; --quick compares
    sizes only.

    Ends with exit code 1 when something failed; warnings alone end with 0.

    Example: plugsky doctor --root /srv/site --json
    """
    paths = site(root)
    findings = _examine(paths, progress(progress_style), quick=quick)
    state = health.worst(findings)
    if as_json:
        tell_json("plugsky.doctor/1", {"state": state, "findings": [dataclasses.asdict(one) for one in findings]})
    else:
        table(("check", "state", "seen"), [(one.check, one.state, one.text) for one in findings])
        for one in findings:
            if one.state != "ok" and one.next:
                say(f"next, for {one.check}: {one.next}")
    if state == "failed":
        raise typer.Exit(ExitCode.FAILED)


def _examine(paths: SitePaths, shown: Progress, *, quick: bool) -> list[Finding]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    findings = health.host_findings(cpuinfo, platform.machine())
    findings += site_files.site_findings(paths, SystemClock(), shown, quick=quick)
    try:
        findings += health.running_findings(asyncio.run(_home(paths)), paths)
    except PlugskyError as error:
        findings.append(Finding("running", "failed", f"{error.what}: {error.why}", error.next or "see the site's log"))
    return findings


async def _home(paths: SitePaths) -> Home | None:
    if not await is_running(paths):
        return None
    async with AdminClient.of(paths, env.SESSION.read()) as client:
        return await client.home()
