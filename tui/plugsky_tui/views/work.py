"""The two tables: the models with their engines, and the requests in flight. Metadata only, never a content."""

from typing import Final

from plugsky.admin.api import ModelView, RequestView
from plugsky_tui import figures
from plugsky_tui.cells import Line, Span, Tone, mark, wrap
from plugsky_tui.home_state import HomeState
from plugsky_tui.views import Box, at_most
from plugsky_tui.views.table import Column, headings, row, widths

STATES: Final[dict[str, tuple[str, Tone, int]]] = {
    "crashed": ("✗", "bad", 0),
    "suspect": ("✗", "bad", 1),
    "loading": ("◐", "warn", 2),
    "ready": ("●", "good", 3),
    "retiring": ("◐", "warn", 4),
    "admitted": ("○", "plain", 5),
    "absent": ("○", "faint", 6),
}
"""Mark, tone and order of each state of an engine: trouble first."""

KV_GAUGE: Final = 6
LEAST: Final = 3
"""Rows that a table is of use with: its headings, one row, and how many more there are."""


def work(state: HomeState, box: Box) -> list[Line]:
    """Both tables, one under the other. Where they do not fit, requests keep two fifths of the rows if they need it."""
    upper, lower = models(state, box), requests(state, box)
    if len(upper) + len(lower) < box.height:
        return [*upper, (), *lower]
    reserved = min(len(lower), max(LEAST, box.height * 2 // 5))
    upper = models(state, Box(box.width, max(LEAST, box.height - reserved)))
    return [*upper, *requests(state, Box(box.width, box.height - len(upper)))]


def models(state: HomeState, box: Box) -> list[Line]:
    """One row for each model, trouble first; a second row says what the trouble is."""
    if state.home is None:
        return []
    found = sorted(state.home.models, key=lambda model: (STATES[model.state][2], model.id))
    columns = (
        Column(f"Models {len(found)}", 24, grows=True),
        Column("State", 10),
        Column("Licence", 12, rank=6),
        Column("Context", 8, right=True, rank=4),
        Column("Memory", 9, right=True, rank=3),
        Column("Threads", 7, right=True, rank=5),
        Column("Run", 4, right=True, rank=1),
        Column("Wait", 4, right=True, rank=1),
        Column("KV cache", KV_GAUGE + 5, rank=2),
        Column("Tokens/s", 8, right=True, rank=1),
    )
    sizes = widths(columns, box.width - 2)
    drawn = found[: box.height]
    groups = [[row(columns, sizes, _model(model)), *_problem(model, box.width)] for model in drawn]
    if not found:
        groups = [[(Span(" No model is installed.", "faint"),)]]
    return [headings(columns, sizes), *at_most(groups, box.height - 1, len(found) - len(drawn))]


def _problem(model: ModelView, width: int) -> list[Line]:
    return wrap(mark("✗", "bad", indent=3), model.problem, width) if model.problem else []


def _model(model: ModelView) -> list[Span | Line]:
    glyph, tone, _ = STATES[model.state]
    loaded = model.pid != 0
    share = model.kv_used / model.kv_cells if loaded and model.kv_cells else None
    full, empty = figures.bar(share, KV_GAUGE)
    return [
        Span(model.id, "strong"),
        (Span(glyph, tone), Span(f" {model.state}")),
        Span(model.licence or figures.DASH, "faint"),
        Span(figures.count(model.context or None)),
        Span(figures.size(model.rss_bytes or None)),
        Span(figures.count(model.threads or None)),
        Span(figures.count(model.running if loaded else None)),
        Span(figures.count(model.waiting if loaded else None)),
        (Span(full, "fill"), Span(empty, "empty"), Span(f" {figures.fraction(share):>4}")),
        Span(figures.rate(model.tokens_per_s if loaded else None)),
    ]


def requests(state: HomeState, box: Box) -> list[Line]:
    """One row for each request in flight, the oldest first."""
    if state.home is None:
        return []
    found = sorted(state.home.requests, key=lambda request: -request.age_us)
    columns = (
        Column(f"Requests {len(found)}", 24, grows=True),
        Column("State", 8),
        Column("Tenant", 16, grows=True, rank=1),
        Column("Key", 8, rank=4),
        Column("Job", 36, rank=5),
        Column("Prompt", 6, right=True, rank=2),
        Column("Out", 6, right=True),
        Column("First", 8, right=True, rank=3),
        Column("Age", 8, right=True),
    )
    sizes = widths(columns, box.width - 2)
    drawn = found[: box.height]
    groups = [[row(columns, sizes, _request(request))] for request in drawn]
    if not found:
        groups = [[(Span(" No request is running.", "faint"),)]]
    return [headings(columns, sizes), *at_most(groups, box.height - 1, len(found) - len(drawn))]


def _request(request: RequestView) -> list[Span | Line]:
    return [
        Span(request.model, "strong"),
        Span(request.state, "faint" if request.state == "queued" else "plain"),
        Span(request.tenant),
        Span(request.key_id, "faint"),
        Span(request.job, "faint"),
        Span(figures.count(request.prompt_tokens)),
        Span(figures.count(request.completion_tokens)),
        Span(figures.micros(request.ttft_us)),
        Span(figures.age(request.age_us)),
    ]
