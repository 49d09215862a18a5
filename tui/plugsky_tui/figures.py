"""Numbers as an operator reads them at a glance. Pure; a number that is missing or is no number is a dash."""

from datetime import UTC, datetime
from math import isfinite
from typing import Final

DASH: Final = "—"


def count(value: int | None) -> str:
    """``1,204``; from a million on ``1.24 M``, from a billion on ``3.10 G``."""
    if value is None:
        return DASH
    if abs(value) >= 1_000_000_000:
        return f"{value / 1_000_000_000:,.2f} G"
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:.2f} M"
    return f"{value:,}"


def rate(value: float | None) -> str:
    """A rate per second: ``0.0``, ``142.3``, ``1,240``."""
    if value is None or not isfinite(value):
        return DASH
    return f"{value:.1f}" if abs(value) < 1000 else count(round(value))


def fraction(value: float | None) -> str:
    """``0.483`` as ``48%``."""
    if value is None or not isfinite(value):
        return DASH
    return f"{value:.0%}"


def size(value: int | None) -> str:
    """Bytes in decimal units, as everywhere: ``512 B``, ``98.4 MB``, ``7.8 GB``."""
    if value is None:
        return DASH
    divisor, unit = _unit(value)
    return f"{_amount(value / divisor, unit)} {unit}"


def part(used: int | None, total: int | None) -> str:
    """Two sizes in the unit of the larger: ``5.1 of 7.8 GB``, ``0.9 of 23.5 GB``."""
    if used is None or total is None:
        return DASH
    divisor, unit = _unit(total)
    return f"{_amount(used / divisor, unit)} of {size(total)}"


def _unit(value: int) -> tuple[int, str]:
    """What to divide by so that fewer than four digits stand before the point, and its name."""
    divisor, unit = 1, "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 1000 * divisor:
            break
        divisor, unit = divisor * 1000, larger
    return divisor, unit


def _amount(amount: float, unit: str) -> str:
    return f"{amount:.0f}" if unit == "B" or abs(amount) >= 100 else f"{amount:.1f}"


def micros(value: int | None) -> str:
    """A duration given in microseconds: ``0.4 ms``, ``18.2 ms``, ``210 ms``, ``1.24 s``, ``2 m 05 s``, ``3 h 12 m``."""
    if value is None:
        return DASH
    if value < 99_950:
        return f"{value / 1000:.1f} ms"
    if value < 999_500:
        return f"{value / 1000:.0f} ms"
    if value < 99_995_000:
        return f"{value / 1_000_000:.2f} s"
    return span(value / 1_000_000)


def age(value: int) -> str:
    """How long ago something began, given in microseconds: ``0.4 s``, then as :func:`span`."""
    return f"{value / 1_000_000:.1f} s" if value < 9_950_000 else span(value / 1_000_000)


def span(seconds: float | None) -> str:
    """A long duration in its two largest units: ``42 s``, ``2 m 05 s``, ``3 h 12 m``, ``3 d 04 h``."""
    if seconds is None or not isfinite(seconds):
        return DASH
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole // 60 % 60:02} m"
    return f"{whole // 86_400} d {whole // 3600 % 24:02} h"


def utc(text: str, *, seconds: bool = True) -> str:
    """An RFC 3339 moment as ``2026-11-22 17:20:05 UTC``; text that is no moment is a dash."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return DASH
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if seconds else f"{moment:%Y-%m-%d %H:%M} UTC"


def bar(value: float | None, width: int) -> tuple[str, str]:
    """The filled and the empty part of a gauge ``width`` cells wide; an unknown value is an empty gauge."""
    known = value if value is not None and isfinite(value) else 0.0
    filled = min(width, max(0, round(known * width)))
    return "━" * filled, "─" * (width - filled)


def trend(values: tuple[float, ...], width: int, ceiling: float | None = None) -> str:
    """The newest ``width`` values as bars of one cell, scaled to ``ceiling`` or else to the largest; zero is blank."""
    shown = [value if isfinite(value) else 0.0 for value in values[-width:]] if width > 0 else []
    top = ceiling or max(shown, default=0.0)
    return "".join(" " if value <= 0 else "▁▂▃▄▅▆▇█"[min(7, int(value / top * 7.999))] for value in shown)
