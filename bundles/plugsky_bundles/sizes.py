"""Counts of bytes as people read them: in decimal units everywhere, as on a stick's label. Pure.

Limits of the formats are powers of two and are written as such where they are defined; what is told to people is not.
"""

from __future__ import annotations


def size(count: int) -> str:
    """`98.2 MB`; below 1000 bytes `512 B`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def sizes(one: int, other: int) -> tuple[str, str]:
    """Two of them to compare: in full where they differ and would read the same."""
    first, second = size(one), size(other)
    return (f"{one} bytes", f"{other} bytes") if first == second and one != other else (first, second)


def shortage(need: int, free: int, where: str = "") -> str:
    """`it needs 602.1 MB, 60.0 MB are free`, and `where`."""
    needed, there = sizes(need, free)
    return f"it needs {needed}, {there} are free" + (f" {where}" if where else "")
