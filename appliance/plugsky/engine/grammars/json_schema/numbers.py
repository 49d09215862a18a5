"""Integers and decimal numbers between bounds, as GBNF over their digits.

Numbers are written with at most 15 significant digits where a bound is near, so that no reader rounds one past it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plugsky.engine.grammars.json_schema.gbnf_text import literal

MAX_BOUND: Final = 10**15
"""Bounds are below it: doubles tell all integers up to there apart."""
_DIGITS: Final = 15


@dataclass(frozen=True, slots=True)
class Bounds:
    """From ``low`` to ``high`` (None: without end); an open end is not itself admitted."""

    low: int | None = None
    high: int | None = None
    low_open: bool = False
    high_open: bool = False


def integers(bounds: Bounds) -> str | None:
    """GBNF of the integers within ``bounds``; None when there are none."""
    low = None if bounds.low is None else bounds.low + bounds.low_open
    high = None if bounds.high is None else bounds.high - bounds.high_open
    if low is None and high is None:
        return "integer"
    parts = []
    if low is None or low < 0:
        parts.append(_signed(_between(max(1, -high) if high is not None else 1, None if low is None else -low)))
    if high is None or high >= 0:
        parts.append(_between(max(0, low or 0), high))
    return _either(parts)


def numbers(bounds: Bounds) -> str | None:
    """GBNF of the numbers within ``bounds``; None when there are none."""
    low, high = bounds.low, bounds.high
    if low is None and high is None:
        return "number"
    parts = []
    if low is None or low < 0:
        nearest = (-high, bounds.high_open) if high is not None and high <= 0 else (0, False)
        parts.append(_signed(_magnitudes(*nearest, None if low is None else -low, bounds.low_open)))
    if high is None or high > 0 or (high == 0 and not bounds.high_open):
        parts.append(_magnitudes(max(0, low or 0), bounds.low_open and (low or 0) >= 0, high, bounds.high_open))
    return _either(parts)


def _magnitudes(low: int, low_open: bool, high: int | None, high_open: bool) -> str | None:
    """Decimals without a sign from ``low`` to ``high``."""
    most = max(1, _DIGITS - len(str(low if high is None else max(low, high))))
    rest, more = f'("." [0-9]{{1,{most}}})?', f'"." [0-9]{{0,{most - 1}}} [1-9]'
    parts: list[str | None] = []
    if low_open and (high is None or low < high):
        parts.append(f"{literal(str(low))} {more}")
    whole = _between(low + low_open, None if high is None else high - 1)
    parts.append(whole and f"{whole} {rest}")
    if high is not None and not high_open and (high > low or (high == low and not low_open)):
        parts.append(literal(str(high)))
    return _either(parts)


def _between(low: int, high: int | None) -> str | None:
    """The integers from ``low``, which is not negative, to ``high``, without leading zeros."""
    top = max(MAX_BOUND, 10 * low) - 1 if high is None else high
    parts = []
    for length in range(len(str(low)), len(str(max(top, 0))) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(top, 10**length - 1)
        if first <= last:
            parts.append(_same_length(str(first), str(last)))
    return _either(parts)


def _same_length(low: str, high: str) -> str:
    if low == high:
        return literal(low) if low else ""
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{len(low)}}}"
    if low[0] == high[0]:
        return f"{literal(low[0])} {_same_length(low[1:], high[1:])}"
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    parts = []
    if low[1:].strip("0"):
        parts.append(f"{literal(low[0])} {_same_length(low[1:], '9' * rest)}")
        first += 1
    end = None
    if high[1:].strip("9"):
        end = f"{literal(high[0])} {_same_length('0' * rest, high[1:])}"
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f" [0-9]{{{rest}}}" if rest else ""))
    return _either([*parts, end]) or ""


def _signed(magnitudes: str | None) -> str | None:
    return magnitudes and f'"-" {magnitudes}'


def _either(parts: Sequence[str | None]) -> str | None:
    found = [part for part in parts if part]
    return f"({' | '.join(found)})" if found else None
