"""A clock that a test moves by hand."""

from datetime import UTC, datetime, timedelta


class HandClock:
    """Wall and monotonic time that stand still until :meth:`pass_` is called."""

    def __init__(self, moment: datetime = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)) -> None:
        self.moment = moment
        self.us = 1_000_000_000

    def now(self) -> datetime:
        return self.moment

    def monotonic_us(self) -> int:
        return self.us

    def pass_(self, **spans: float) -> None:
        span = timedelta(**spans)
        self.moment += span
        self.us += span // timedelta(microseconds=1)
