"""Isolation and duties: what was seen of the site's isolation, and what a person must still do."""

from typing import Final

from plugsky.admin.api import Duty, Isolation
from plugsky_tui.cells import Line, Span, Tone, line_width, mark, wrap
from plugsky_tui.home_state import HomeState
from plugsky_tui.views import Box, at_most, heading

SEVERITY: Final[dict[str, tuple[str, Tone, int]]] = {
    "alarm": ("✗", "bad", 0),
    "warning": ("▲", "warn", 1),
    "info": ("·", "plain", 2),
}
"""Mark, tone and order of each severity."""


def by_gravity(found: tuple[Duty, ...]) -> list[Duty]:
    """The duties with the gravest first."""
    return sorted(found, key=lambda duty: SEVERITY[duty.severity][2])


def isolation(state: HomeState, box: Box) -> list[Line]:
    """The verdict, then what was looked at; where it is not proven, first what speaks against it, then what is well."""
    if state.home is None:
        return []
    seen = state.home.isolation
    verdict: Line = (*mark("✓", "good"), Span("PROVEN", "good"))
    if not seen.proven:
        verdict = (*mark("✗", "bad"), Span("NOT PROVEN", "bad"))
    against = [wrap(mark("✗", "bad"), finding, box.width) for finding in seen.findings]
    observed = [
        wrap(mark("✓", "good") if well else mark("✗", "bad"), text, box.width)
        for text, well in _observations(seen)
        if well or not against
    ]
    listening = f"listening on {', '.join(seen.listening)}" if seen.listening else "nothing is listening"
    groups = [[verdict], *against, *observed, wrap(mark("·", "faint"), listening, box.width)]
    return [heading("Isolation", box.width), *at_most(groups, box.height - 1)]


def _observations(seen: Isolation) -> tuple[tuple[str, bool], ...]:
    outward = f"connected outward to {', '.join(seen.outbound)}" if seen.outbound else "no connection outward"
    return (
        (
            "engines have no network" if seen.engine_namespace else "engines share the host's network",
            seen.engine_namespace,
        ),
        (outward, not seen.outbound),
        ("a default route exists" if seen.default_route else "no default route", not seen.default_route),
    )


def duties(state: HomeState, box: Box) -> list[Line]:
    """Each duty, the gravest first, with the command that settles it on the same row where all have room for it."""
    if state.home is None:
        return []
    found = by_gravity(state.home.duties)
    if not found:
        return [heading("Duties", box.width), (*mark("✓", "good"), Span("nothing is left to do"))]
    singles: list[list[Line]] = []
    stacks: list[list[Line]] = []
    for duty in found:
        glyph, tone, _ = SEVERITY[duty.severity]
        prefix, arrow = mark(glyph, tone), mark("→", "faint", indent=3)
        singles.append([(*prefix, Span(duty.text), *arrow, Span(duty.next, "accent"))])
        stacks.append([*wrap(prefix, duty.text, box.width), *wrap(arrow, duty.next, box.width, "accent")])
    roomy = all(line_width(line) <= box.width for (line,) in singles)
    body = at_most(singles if roomy else stacks, box.height - 1)
    return [heading("Duties", box.width, f"{len(found)} open"), *body]
