"""What is shown where Home has no panels to show: before the first news, and on a terminal too small for them."""

from plugsky_tui.cells import Line, Span, fit, mark, wrap
from plugsky_tui.home_state import HomeState
from plugsky_tui.views import Box
from plugsky_tui.views.posture import SEVERITY, by_gravity


def waiting(state: HomeState, box: Box) -> list[Line]:
    """That the console connects; once that failed: what happened, why, and the next command."""
    if state.lost is None:
        return [(), (Span("   connecting to the site…", "strong"),)][: box.height]
    lines: list[Line] = [(), *wrap(mark("✗", "bad"), state.lost.what, box.width, "strong")]
    if state.lost.why:
        lines += wrap((Span("   "),), state.lost.why, box.width)
    if state.lost.next:
        lines += wrap(mark("→", "faint", indent=3), state.lost.next, box.width, "accent")
    lines += [(), (Span("   trying again until it answers", "faint"),)]
    return [fit(line, box.width) for line in lines][: box.height]


def compact(state: HomeState, box: Box) -> list[Line]:
    """The vital facts, one a row and the most urgent first."""
    lines: list[Line] = []
    if state.lost is not None:
        lines.append((*mark("✗", "bad", indent=0), Span(state.lost.what, "bad")))
    elif state.home is None:
        lines.append((Span("connecting to the site…"),))
    if state.home is not None:
        home = state.home
        isolated: Line = (
            (*mark("✓", "good", indent=0), Span("isolation proven"))
            if home.isolation.proven
            else (*mark("✗", "bad", indent=0), Span("isolation NOT proven", "bad"))
        )
        lines.append(isolated)
        for duty in by_gravity(home.duties):
            glyph, tone, _ = SEVERITY[duty.severity]
            lines.append((*mark(glyph, tone, indent=0), Span(duty.text)))
        ready = sum(model.state == "ready" for model in home.models)
        lines.append((Span(f"{ready} of {len(home.models)} models ready, {len(home.requests)} requests"),))
        lines.append((Span(home.identity.host, "strong"),))
    lines.append((Span("Home needs 80x24. q quits.", "faint"),))
    return [fit(line, box.width) for line in lines][: box.height]
