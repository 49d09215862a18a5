"""Failures of a request that every dialect words alike."""

from plugsky.core.errors import ErrorKind, PlugskyError


def too_late() -> PlugskyError:
    """The failure of a request that reached its time limit."""
    return PlugskyError(ErrorKind.TIMEOUT, "The request reached its time limit", retry_after=5.0)
