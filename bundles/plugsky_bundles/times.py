"""Times as metadata writes them: UTC, RFC 3339, whole seconds (`2026-11-22T17:00:00Z`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from plugsky_bundles.strict_json import malformed

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def whole_seconds(moment: datetime) -> datetime:
    """`moment` in UTC without its fraction. Raises ValueError for a time without a zone: that is a caller's mistake."""
    if moment.tzinfo is None:
        msg = "a time needs a zone"
        raise ValueError(msg)
    return moment.astimezone(UTC).replace(microsecond=0)


def stamp(moment: datetime) -> str:
    return whole_seconds(moment).strftime(_FORMAT)


def parse_stamp(text: Any, what: str) -> datetime:
    """The inverse of `stamp`, exactly. Raises MalformedMetadata naming `what`."""
    try:
        moment = datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise malformed(what, f"{text!r} is not a UTC time like 2026-01-31T12:00:00Z") from None
    if stamp(moment) != text:
        raise malformed(what, f"{text!r} is not a UTC time like 2026-01-31T12:00:00Z")
    return moment
