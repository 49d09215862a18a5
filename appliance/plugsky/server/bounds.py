"""Bounds that the site's policy sets to what a request holds, whatever its dialect calls it."""

from collections.abc import Sequence

from plugsky.core.policy import Limits
from plugsky.server.failures import bad


def stop_strings(place: str, given: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """The texts that end an answer. Raises ``bad_request`` for too many, and for one too long or empty."""
    if len(given) > limits.max_stop_strings:
        raise bad(place, f"there are {len(given)}; the limit is {limits.max_stop_strings}")
    if any(not 0 < len(text) <= limits.max_stop_chars for text in given):
        raise bad(place, f"each is 1 to {limits.max_stop_chars} characters long")
    return tuple(given)
