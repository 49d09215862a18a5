"""The console in plain lines: for ``TERM=dumb``, a pipe, or a screen reader.

Every fact is one sentence or one ``name: value`` line, read from top to bottom. No table, no glyph, no colour, nothing
that moves: the site is asked once for each choice of the numbered menu. ASCII only. The end of the input leaves.
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import TextIO

from plugsky.admin.api import Admin, Home
from plugsky.core.errors import PlugskyError
from plugsky_tui import figures
from plugsky_tui.cells import clean, to_ascii
from plugsky_tui.home_state import cleaned
from plugsky_tui.views.posture import by_gravity

MENU = "1. Home, once more\nq. Quit"


def run(admin: Admin, stdin: TextIO | None = None, stdout: TextIO | None = None) -> None:
    """Says Home, then offers the menu until ``q`` or the end of the input."""
    lines, out = stdin or sys.stdin, stdout or sys.stdout
    with asyncio.Runner() as runner:
        choice = "1"
        while choice not in {"q", "Q"}:
            if choice == "1":
                _say(out, "\n".join(runner.run(_home(admin))))
            elif choice:
                _say(out, f"There is no {choice[:20]!a} in the menu.")
            _say(out, MENU)
            out.write("Choose: ")
            out.flush()
            answer = lines.readline()
            if not answer:
                _say(out, "")
                return
            choice = answer.strip()


def _say(out: TextIO, text: str) -> None:
    out.write(to_ascii(text.replace(figures.DASH, "unknown")) + "\n")


async def _home(admin: Admin) -> list[str]:
    try:
        return list(sentences(cleaned(await admin.home())))
    except PlugskyError as error:
        said = [f"{part[:1].upper()}{part[1:]}." for part in (clean(error.what), clean(error.why)) if part]
        return [*said, f"Next: {clean(error.next)}"] if error.next else said


def sentences(home: Home) -> Iterator[str]:
    """Home as sentences, the most urgent first."""
    identity, isolation = home.identity, home.isolation
    yield f"Plugsky on {identity.host}, {figures.utc(identity.time)}."
    yield f"Isolation: {'proven' if isolation.proven else 'NOT PROVEN'}."
    yield from (f"Finding: {finding}" for finding in isolation.findings)
    yield f"Duties: {len(home.duties) or 'none'}."
    yield from (f"{duty.severity.capitalize()}: {duty.text} Next: {duty.next}" for duty in by_gravity(home.duties))
    yield f"Channel: {identity.channel or figures.DASH}. Generation: {identity.generation}."
    yield f"Version: {identity.version}."
    yield f"Bundle: {identity.bundle_id[:8] or figures.DASH}."
    yield f"You are {home.operator} with the role {home.role}. The site is up {figures.span(home.uptime_s)}."
    yield f"Models: {len(home.models) or 'none'}."
    for model in home.models:
        load = f", {model.running} running, {model.waiting} waiting" if model.pid else ""
        yield f"Model {model.id}: {model.state}{load}.{f' Problem: {model.problem}' if model.problem else ''}"
    traffic = home.traffic
    if traffic is None:
        yield "Traffic: unknown, the gateway is not running."
    else:
        yield f"Requests since the gateway started: {figures.count(traffic.requests)}, failed: {traffic.failed}."
        yield f"Tokens per second: {figures.rate(traffic.tokens_per_s)}."
        yield f"First token, median: {figures.micros(traffic.ttft_p50_us)}."
    yield f"Requests in flight: {len(home.requests) or 'none'}."
    for request in home.requests:
        made, age = figures.count(request.completion_tokens), figures.age(request.age_us)
        yield f"Request of {request.tenant} to {request.model}: {request.state}, {made} tokens out, {age} old."
    host = home.host
    yield f"Processor: {figures.fraction(host.cpu_fraction)}."
    yield f"Memory: {figures.part(host.memory_used, host.memory_total)}."
    yield f"Disk free: {figures.size(host.disk_free)}."
