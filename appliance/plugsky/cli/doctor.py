"""``plugsky doctor``: what is healthy and what is not, with the next command for each."""

import asyncio
import dataclasses
import platform
from pathlib import Path

import typer

from plugsky.admin import health, site_files
from plugsky.admin.api import Home
from plugsky.admin.client import AdminClient
from plugsky.admin.health import Finding
from plugsky.cli.administration import is_running
from plugsky.cli.options import RootOption, site
from plugsky.cli.output import JsonFlag, say, table, tell_json
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ExitCode, PlugskyError
from plugsky.core.paths import SitePaths

app = typer.Typer(rich_markup_mode=None)


@app.command()
def doctor(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """Look at the host, the site's files and the running site, and say what is healthy.

    Ends with exit code 1 when something failed; warnings alone end with 0.

    Example: plugsky doctor --root /srv/site --json
    """
    paths = site(root)
    findings = list(_examine(paths))
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


def _examine(paths: SitePaths) -> list[Finding]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    findings = health.host_findings(cpuinfo, platform.machine())
    findings += site_files.site_findings(paths, SystemClock())
    try:
        findings += health.running_findings(asyncio.run(_home(paths)), paths)
    except PlugskyError as error:
        findings.append(Finding("running", "failed", f"{error.what}: {error.why}", error.next or "see the site's log"))
    return findings


async def _home(paths: SitePaths) -> Home | None:
    if not await is_running(paths):
        return None
    async with AdminClient.of(paths) as client:
        return await client.home()
