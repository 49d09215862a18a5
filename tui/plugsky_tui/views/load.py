"""Traffic and host: how the site is used now and in the last minutes, and what of the host that takes."""

from typing import Final

from plugsky_tui import figures
from plugsky_tui.cells import Line, Span, Tone, fit, pad
from plugsky_tui.home_state import HomeState
from plugsky_tui.views import Box, at_most, heading

LABEL: Final = 13
VALUE: Final = 9
NEARLY_FULL: Final = 0.9
TRAFFIC: Final = ("Requests", "In flight", "Tokens/s", "First token", "Next token")


def traffic(state: HomeState, box: Box) -> list[Line]:
    """The gateway's counters since its start and its medians, each beside its companion; dashes without a gateway."""
    if state.home is None:
        return []
    seen = state.home.traffic
    if seen is None:
        rows = [_row(label, figures.DASH) for label in TRAFFIC]
        return _panel("Traffic", "the gateway is not running", rows, box)
    past = figures.trend(state.tokens_per_s, box.width - LABEL - VALUE - 4)
    values: tuple[tuple[str, str, Tone], ...] = (
        (figures.count(seen.requests), f"{figures.count(seen.failed)} failed", "bad" if seen.failed else "faint"),
        (figures.count(seen.running), f"{figures.count(seen.waiting)} waiting", "faint"),
        (figures.rate(seen.tokens_per_s), past, "trend"),
        (figures.micros(seen.ttft_p50_us), f"p95 {figures.micros(seen.ttft_p95_us)}", "faint"),
        (figures.micros(seen.inter_token_p50_us), f"p95 {figures.micros(seen.inter_token_p95_us)}", "faint"),
    )
    rows = [_row(label, *value) for label, value in zip(TRAFFIC, values, strict=True)]
    return _panel("Traffic", "", rows, box)


def host(state: HomeState, box: Box) -> list[Line]:
    """Processor, memory and disk as gauges, the processor's recent past, and what the engines hold of the memory."""
    if state.home is None:
        return []
    seen = state.home.host
    width = max(6, min(24, box.width - LABEL - 19))
    taken = seen.disk_total - seen.disk_free if seen.disk_total and seen.disk_free is not None else None
    free = figures.DASH if seen.disk_free is None else f"{figures.size(seen.disk_free)} free"
    loaded = [model for model in state.home.models if model.pid]
    engines = f"{len(loaded)} running, {figures.size(sum(model.rss_bytes for model in loaded))}"
    rows: list[Line] = [
        _gauge("Processor", seen.cpu_fraction, width, figures.fraction(seen.cpu_fraction)),
        (Span(" " * (LABEL + 1)), Span(figures.trend(state.cpu, box.width - LABEL - 2, 1.0), "trend")),
        _gauge(
            "Memory",
            _share(seen.memory_used, seen.memory_total),
            width,
            figures.part(seen.memory_used, seen.memory_total),
        ),
        _gauge("Disk", _share(taken, seen.disk_total), width, free),
        (Span(pad(" Engines", LABEL + 1), "faint"), Span(engines if loaded else "none running")),
    ]
    return _panel("Host", "", rows, box)


def _panel(title: str, note: str, rows: list[Line], box: Box) -> list[Line]:
    body = at_most([[fit(line, box.width)] for line in rows], box.height - 1)
    return [heading(title, box.width, note), *body]


def _row(label: str, value: str, companion: str = "", tone: Tone = "faint") -> Line:
    return (
        Span(pad(f" {label}", LABEL), "faint"),
        Span(pad(value, VALUE, right=True), "strong"),
        Span("  "),
        Span(companion, tone),
    )


def _gauge(label: str, value: float | None, width: int, text: str) -> Line:
    full, empty = figures.bar(value, width)
    tone: Tone = "warn" if value is not None and value >= NEARLY_FULL else "fill"
    return (Span(pad(f" {label}", LABEL + 1), "faint"), Span(full, tone), Span(empty, "empty"), Span(f"  {text}"))


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None
