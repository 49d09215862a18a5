"""Failures of a request that every dialect words alike."""

import traceback

from plugsky.core.errors import ErrorKind, PlugskyError


def too_late() -> PlugskyError:
    """The failure of a request that reached its time limit."""
    return PlugskyError(ErrorKind.TIMEOUT, "The request reached its time limit", retry_after=5.0)


def place_of(error: Exception) -> str:
    """An unforeseen failure as a log may have it: its type and place, never its text, which may hold a prompt."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.filename}:{frame.lineno}"


def bad(place: str, why: str) -> PlugskyError:
    """The refusal of a field's value, with its place."""
    return PlugskyError(ErrorKind.BAD_REQUEST, f"The parameter {place} cannot be used", why=why, param=place)
