"""The doctor: what is healthy, what is not, and what to do about it. The host and the running site are looked at here,
the site's files in :mod:`plugsky.admin.site_files`.

Each finding is ``ok``, ``warning`` or ``failed``. A warning does not keep the site from its work; a failure does. A
check that cannot run says so as a finding; nothing is skipped in silence.
"""

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from plugsky.admin.api import Home
from plugsky.core.commands import command_line
from plugsky.core.paths import SitePaths

State = Literal["ok", "warning", "failed"]

BASELINE: Final = frozenset({"avx2", "fma", "f16c", "bmi2"})
"""x86-64-v3 as ``/proc/cpuinfo`` names what llama.cpp is compiled for."""


@dataclass(frozen=True)
class Finding:
    """The result of one check: what it looked at, how it stands, what was seen, and the next command."""

    check: str
    state: State
    text: str
    next: str = ""


def host_findings(cpuinfo: str, machine: str) -> list[Finding]:
    """What of the host decides whether the engine's library runs at all. Pure but for loading libgomp."""
    flags = next(
        (set(line.split(":", 1)[1].split()) for line in cpuinfo.splitlines() if line.startswith("flags")), set()
    )
    missing = BASELINE - flags if machine == "x86_64" else set()
    return [
        Finding("processor", "failed", f"it lacks {', '.join(sorted(missing))}", "use a host with AVX2 (x86-64-v3)")
        if missing
        else Finding("processor", "ok", f"{machine} with the instructions the engine is compiled for"),
        Finding("libgomp", "ok", "OpenMP's runtime is there")
        if _loads("libgomp.so.1")
        else Finding("libgomp", "failed", "libgomp.so.1 cannot be loaded", "apt install libgomp1"),
    ]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def running_findings(home: Home | None, paths: SitePaths) -> Iterator[Finding]:
    """What the running site says of itself; ``home`` is None when nobody answers."""
    if home is None:
        yield Finding("running", "warning", "the site is not running", command_line("serve", "--root", paths.root))
        return
    yield Finding("running", "ok", f"for {home.uptime_s:.0f} s")
    for model in home.models:
        good = model.state in ("ready", "loading", "suspect")  # suspect: it serves, and crashed a short while ago
        good |= model.state in ("retiring", "absent") and not model.problem  # nobody asked it for anything
        detail = f"{model.state}{f': {model.problem}' if model.problem else ''}"
        yield Finding(
            f"engine {model.id}",
            "ok" if good else "failed",
            detail,
            "" if good else f"read {paths.logs / f'engine-{model.id}.log'}",
        )
    if home.traffic is None:
        yield Finding("gateway", "failed", "it does not answer", f"read {paths.logs / 'gateway.log'}")
    else:
        yield Finding("gateway", "ok", f"{home.traffic.requests} requests, {home.traffic.failed} failed")
    if home.isolation.proven:
        yield Finding("isolation", "ok", "nothing was seen that speaks against it")
    for text in home.isolation.findings:
        yield Finding("isolation", "warning", text)


def worst(findings: Iterable[Finding]) -> State:
    """The state of the whole: the worst of its findings."""
    states = {finding.state for finding in findings}
    return "failed" if "failed" in states else "warning" if "warning" in states else "ok"
