"""What a Prometheus server may scrape of one gateway process: counts and times, never who asked or what.

No label holds a tenant, a key or anything a client wrote: models are those of the site, endpoints and outcomes those of
the code, so that the number of series is bounded.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Usage
from plugsky.server.flights import Flight, Flights

_FIRST_TOKEN_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WHOLE_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)


class Metrics:
    """The counters of one gateway."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        served = ["model", "endpoint"]
        self._requests = Counter(
            "plugsky_requests", "Requests that were settled.", [*served, "outcome"], registry=registry
        )
        self._refused = Counter(
            "plugsky_refused", "Requests that were refused before anything was run.", ["reason"], registry=registry
        )
        self._tokens = Counter("plugsky_tokens", "Tokens as the ledger has them.", ["model", "kind"], registry=registry)
        self._engine_s = Counter(
            "plugsky_engine_seconds", "Compute time that requests were charged.", ["model"], registry=registry
        )
        self._first_s = Histogram(
            "plugsky_first_token_seconds", "From arrival to the first token.", served, buckets=_FIRST_TOKEN_S,
            registry=registry,
        )  # fmt: skip
        self._whole_s = Histogram(
            "plugsky_request_seconds", "From arrival to the settled end.", served, buckets=_WHOLE_S, registry=registry
        )

    def settled(self, flight: Flight, model: str, endpoint: str, outcome: str, usage: Usage) -> None:
        """A request was settled with this usage."""
        self._requests.labels(model, endpoint, outcome).inc()
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "cached").inc(usage.cached_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)
        self._engine_s.labels(model).inc(usage.engine_us / 1e6)
        if flight.first_token_us is not None:
            self._first_s.labels(model, endpoint).observe(flight.first_token_us / 1e6)
        self._whole_s.labels(model, endpoint).observe(flight.age_us / 1e6)

    def refused(self, kind: ErrorKind) -> None:
        """A request was turned away before anything was run for it."""
        self._refused.labels(kind.wire).inc()

    def collect(self) -> Iterator[Metric]:
        """What is so now, rather than counted. Called at a scrape."""
        now = GaugeMetricFamily("plugsky_in_flight", "Requests in flight.", labels=["state"])
        states = dict.fromkeys(("queued", "prefill", "decode", "ending"), 0)
        for view in self._flights.requests():
            states[view.state] += 1
        for state, count in states.items():
            now.add_metric([state], count)
        yield now

    def page(self) -> bytes:
        """Everything, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
