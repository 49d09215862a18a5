"""The two rows on top: which site this is and its time; what it runs and as whom, or that it is lost."""

from typing import Final

from rich.cells import cell_len

from plugsky_tui.cells import Line, Span, beside, clip, line_width
from plugsky_tui.feed import Lost
from plugsky_tui.figures import DASH, span, utc
from plugsky_tui.home_state import HomeState
from plugsky_tui.views import Box, filled

NAME: Final = 16
"""Cells that the operator's name and role may take."""
WIDE: Final = 110
"""From this width on there is room for the root's fingerprint and for longer digests."""


def masthead(state: HomeState, box: Box) -> list[Line]:
    """Host and UTC; then channel, generation, version and bundle, with the operator, role and uptime at the right."""
    return [_crown(state, box.width), _facts(state, box.width)]


def _crown(state: HomeState, width: int) -> Line:
    host, clock = "", ""
    if state.home is not None:
        host = state.home.identity.host
        clock = utc(state.home.identity.time, seconds=state.shows_seconds)
    if state.paused:
        clock = f"PAUSED  {clock}"
    line = beside(
        (Span(" Plugsky ", "crown"), Span(f" {host}", "crown")), (Span(f"{clock} ", "crown"),), width, "crown"
    )
    return filled(line, width, "crown")


def _facts(state: HomeState, width: int) -> Line:
    if state.home is None:
        return ()
    if state.lost is not None:
        return _lost(state.lost, width)
    identity = state.home.identity
    digits = 16 if width >= WIDE else 8
    facts = [identity.channel or DASH, f"generation {identity.generation}", identity.version]
    if identity.bundle_id:
        facts.append(f"bundle {identity.bundle_id[:digits]}")
    if identity.root_fingerprint and width >= WIDE:
        facts.append(f"root {identity.root_fingerprint[:digits]}")
    who = f"{clip(state.home.operator, NAME)} · {clip(state.home.role, NAME)} · up {span(state.home.uptime_s)} "
    return beside((Span(" " + " · ".join(facts), "faint"),), (Span(who, "faint"),), width)


def _lost(lost: Lost, width: int) -> Line:
    what: Line = (Span(f" ✗ {lost.what}", "alarm"),)
    advice = [f"trying again · {lost.next} ", f"{lost.next} ", "trying again "] if lost.next else ["trying again "]
    fitting = [text for text in advice if line_width(what) + cell_len(text) + 2 <= width]
    return filled(beside(what, (Span(fitting[0] if fitting else advice[-1], "alarm"),), width, "alarm"), width, "alarm")
