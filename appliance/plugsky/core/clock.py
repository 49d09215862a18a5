"""Time as a value that is passed in, so that every rule about time is tested without waiting.

Wall time is UTC. Files carry RFC 3339 with a ``Z`` (:func:`rfc3339`); frames carry integer microseconds since the Unix
epoch. Durations and deadlines inside one process use the monotonic clock.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where a room reads time from."""

    def now(self) -> datetime:
        """The wall time, UTC, aware."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never steps back; comparable within one host's boot only."""
        ...


class SystemClock:
    """The host's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000


def rfc3339(moment: datetime) -> str:
    """``2026-11-22T17:20:05.123456Z``: RFC 3339 in UTC with microseconds (always six digits, so text sorts as time)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_us(moment_us: int) -> str:
    """The same of microseconds since the Unix epoch."""
    return rfc3339(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=moment_us))


def unix_us(moment: datetime) -> int:
    """Integer microseconds since the Unix epoch."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
