"""What is shown where Home has no panels to show: before the first news, and on a terminal too small for them."""

from plugsky_tui.cells import Line, Span, fit
from plugsky_tui.home_state import HomeState
from plugsky_tui.views import Box


def waiting(state: HomeState, box: Box) -> list[Line]:
    """That the console connects; once that failed: what happened, why, and the next command."""
    if state.lost is None:
        return [(), (Span("   Connecting to the site…", "strong"),)][: box.height]
    lines: list[Line] = [(), (Span(" ✗ ", "bad"), Span(state.lost.what, "strong"))]
    if state.lost.why:
        lines.append((Span(f"   {state.lost.why}"),))
    if state.lost.next:
        lines.append((Span("   → ", "faint"), Span(state.lost.next, "accent")))
    lines += [(), (Span("   Trying again until it answers.", "faint"),)]
    return [fit(line, box.width) for line in lines][: box.height]


def compact(state: HomeState, box: Box) -> list[Line]:
    """The vital facts, one a row and the most urgent first."""
    lines: list[Line] = []
    if state.lost is not None:
        lines.append((Span("✗ ", "bad"), Span(state.lost.what, "bad")))
    elif state.home is None:
        lines.append((Span("Connecting to the site…"),))
    if state.home is not None:
        home = state.home
        isolated: Line = (
            (Span("✓ ", "good"), Span("isolation proven"))
            if home.isolation.proven
            else (Span("✗ ", "bad"), Span("isolation NOT proven", "bad"))
        )
        lines.append(isolated)
        lines += [(Span("▲ ", "warn"), Span(duty.text)) for duty in home.duties]
        ready = sum(model.state == "ready" for model in home.models)
        lines.append((Span(f"{ready} of {len(home.models)} models ready, {len(home.requests)} requests"),))
        lines.append((Span(home.identity.host, "strong"),))
    lines.append((Span("Home needs 80x24. q quits.", "faint"),))
    return [fit(line, box.width) for line in lines][: box.height]
