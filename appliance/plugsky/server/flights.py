"""The requests in flight and the gateway's counters: what Admin shows, and where a request is cancelled by its job.

Metadata only, never content. Counters run from the start of the process. Percentiles are taken over the last
:data:`SAMPLES` requests (time to first token) and the last :data:`SAMPLES` gaps between news of one request; the rate
is tokens per second over the last :data:`RATE_WINDOW_S` seconds. Does no IO; the clock is passed in.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Literal

from plugsky.admin.api import RequestView, Traffic
from plugsky.core.clock import Clock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import ServiceClass
from plugsky.core.principal import Principal

SAMPLES: Final = 1024
RATE_WINDOW_S: Final = 10

FlightState = Literal["queued", "prefill", "decode", "ending"]


class Flight:
    """One request from authentication to its last byte."""

    def __init__(self, job: str, principal: Principal, flights: "Flights", now_us: int) -> None:
        self.job = job
        self.principal = principal
        self.requested_model = ""
        self.model = ""
        self.state: FlightState = "queued"
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.service_class: ServiceClass = "standard"
        self.weighed = 0
        """Tokens taken from its key's and its tenant's share of this minute."""
        self.booked = False
        """Whether tokens are reserved for it, so that its end is the ledger's business."""
        self.failed = False
        """Whether the site failed it; a request that was refused or cancelled has not failed."""
        self.cancelled_by = ""
        """Who asked for the end: ``client`` (it hung up), ``operator``, ``drain``; empty while nobody did."""
        self._flights = flights
        self._began_us = now_us
        self._first_us: int | None = None
        self._last_us: int | None = None
        self._on_cancel: Callable[[], None] | None = None

    @property
    def first_token_us(self) -> int | None:
        """Microseconds from arrival to the first token, or None before it."""
        return None if self._first_us is None else self._first_us - self._began_us

    @property
    def age_us(self) -> int:
        """Microseconds from arrival until now."""
        return self._flights.now_us() - self._began_us

    def produced(self, tokens: int, now_us: int) -> None:
        """Count tokens that came from the engine just now."""
        if not tokens:
            return
        self.completion_tokens += tokens
        self.state = "decode"
        self._flights.count_tokens(tokens, now_us)
        if self._first_us is None or self._last_us is None:
            self._first_us = now_us
            self._flights.ttft_us.append(now_us - self._began_us)
        else:
            self._flights.gaps_us.append(now_us - self._last_us)
        self._last_us = now_us

    def on_cancel(self, act: Callable[[], None] | None) -> None:
        """What to do when the request is cancelled: at once if it already was."""
        self._on_cancel = act
        if act is not None and self.cancelled_by:
            act()

    def cancel(self, by: str) -> None:
        """End the request; the first to ask is remembered."""
        if self.cancelled_by:
            return
        self.cancelled_by = by
        if self._on_cancel is not None:
            self._on_cancel()

    def still_wanted(self) -> None:
        """Raise what :meth:`ended_early` says when somebody has ended the request."""
        if self.cancelled_by:
            raise self.ended_early()

    def ended_early(self) -> PlugskyError:
        """The error of a request that somebody ended."""
        if self.cancelled_by == "drain":
            return PlugskyError(ErrorKind.OVERLOADED, "The gateway is shutting down", retry_after=1.0)
        return PlugskyError(ErrorKind.CANCELLED, "The request was cancelled", why=f"by the {self.cancelled_by}")

    def view(self, now_us: int) -> RequestView:
        """The request as Admin shows it."""
        return RequestView(
            job=self.job,
            tenant=self.principal.tenant,
            key_id=self.principal.key_id,
            model=self.model,
            state=self.state,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            age_us=now_us - self._began_us,
            ttft_us=self.first_token_us,
        )


class Flights:
    """All requests in flight, by job, and the counters over those that were."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._flights: dict[str, Flight] = {}
        self._empty = asyncio.Event()
        self._requests = 0
        self._failed = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._per_second: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_S + 1)
        self.ttft_us: deque[int] = deque(maxlen=SAMPLES)
        self.gaps_us: deque[int] = deque(maxlen=SAMPLES)

    def __len__(self) -> int:
        return len(self._flights)

    def now_us(self) -> int:
        """The monotonic clock, in microseconds."""
        return self._clock.monotonic_us()

    def begin(self, job: str, principal: Principal) -> Flight:
        """Take a request into the air."""
        flight = Flight(job, principal, self, self._clock.monotonic_us())
        self._flights[job] = flight
        self._empty.clear()
        self._requests += 1
        return flight

    def end(self, flight: Flight) -> None:
        """The request is over, well or badly."""
        if self._flights.pop(flight.job, None) is not None:
            self._failed += flight.failed
            if flight.booked:
                self._prompt_tokens += flight.prompt_tokens
        if not self._flights:
            self._empty.set()

    async def landed(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; whether that was so in time."""
        if self._flights:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
        return not self._flights

    def turned_away(self, error: PlugskyError) -> None:
        """Count a request that never took off, as for want of a valid key."""
        self._requests += 1
        self._failed += is_failure(error)

    def count_tokens(self, tokens: int, now_us: int) -> None:
        """Add produced tokens to the sums and to the second they came in."""
        self._completion_tokens += tokens
        second = now_us // 1_000_000
        if self._per_second and self._per_second[-1][0] == second:
            tokens += self._per_second.pop()[1]
        self._per_second.append((second, tokens))

    def cancel(self, job: str, by: str) -> bool:
        """Cancel one request; whether there was one of that job."""
        flight = self._flights.get(job)
        if flight is None:
            return False
        flight.cancel(by)
        return True

    def cancel_all(self, by: str) -> None:
        """Cancel whatever is in flight."""
        for flight in list(self._flights.values()):
            flight.cancel(by)

    def requests(self) -> tuple[RequestView, ...]:
        """What is in flight now, oldest first."""
        now = self._clock.monotonic_us()
        return tuple(flight.view(now) for flight in self._flights.values())

    def traffic(self) -> Traffic:
        """The counters now."""
        second = self._clock.monotonic_us() // 1_000_000
        recent = sum(tokens for at, tokens in self._per_second if second - RATE_WINDOW_S < at <= second)
        running = sum(flight.state == "decode" for flight in self._flights.values())
        return Traffic(
            requests=self._requests,
            failed=self._failed,
            running=running,
            waiting=len(self._flights) - running,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            tokens_per_s=recent / RATE_WINDOW_S,
            ttft_p50_us=percentile(self.ttft_us, 50),
            ttft_p95_us=percentile(self.ttft_us, 95),
            inter_token_p50_us=percentile(self.gaps_us, 50),
            inter_token_p95_us=percentile(self.gaps_us, 95),
        )


def is_failure(error: PlugskyError) -> bool:
    """Whether the site failed a request, rather than refused it or was told to end it."""
    return error.kind.value.status >= 500 and error.kind is not ErrorKind.NOT_SUPPORTED


def percentile(samples: Sequence[int] | deque[int], percent: int) -> int | None:
    """The nearest-rank percentile, or None of nothing."""
    if not samples:
        return None
    ordered = sorted(samples)
    rank = -(-percent * len(ordered) // 100)
    return ordered[max(rank, 1) - 1]
