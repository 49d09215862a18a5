"""What Admin sees of the gateway: requests in flight, counters, percentiles, cancelling by job."""

import pytest

from appliance.hand_clock import HandClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.server.control import verbs
from plugsky.server.flights import Flights, is_failure, percentile

ACME = Principal("acme", "k1")


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def flights(clock):
    return Flights(clock)


@pytest.mark.parametrize(
    ("samples", "percent", "found"),
    [([], 50, None), ([7], 95, 7), ([1, 2, 3, 4], 50, 2), (list(range(1, 101)), 95, 95), ([5, 1, 9], 50, 5)],
)
def test_a_percentile_is_a_sample_that_was_seen(samples, percent, found):
    assert percentile(samples, percent) == found


def test_a_request_is_seen_from_its_arrival_to_its_end(flights, clock):
    flight = flights.begin("j1", ACME)
    flight.model, flight.prompt_tokens, flight.booked = "poet-1b", 5, True
    clock.us += 2000
    assert flights.requests()[0].state == "queued"
    flight.produced(1, clock.us)
    clock.us += 500
    flight.produced(2, clock.us)
    (view,) = flights.requests()
    assert (view.state, view.completion_tokens, view.ttft_us, view.age_us) == ("decode", 3, 2000, 2500)
    traffic = flights.traffic()
    assert (traffic.requests, traffic.running, traffic.waiting, traffic.failed) == (1, 1, 0, 0)
    assert (traffic.ttft_p50_us, traffic.inter_token_p95_us) == (2000, 500)
    flights.end(flight)
    assert flights.requests() == ()
    assert (flights.traffic().prompt_tokens, flights.traffic().completion_tokens) == (5, 3)


def test_the_rate_is_over_the_last_seconds_only(flights, clock):
    flight = flights.begin("j1", ACME)
    flight.produced(100, clock.us)
    assert flights.traffic().tokens_per_s == 10.0
    clock.us += 9_000_000
    flight.produced(50, clock.us)
    assert flights.traffic().tokens_per_s == 15.0
    clock.us += 9_000_000
    assert flights.traffic().tokens_per_s == 5.0
    clock.us += 60_000_000
    assert flights.traffic().tokens_per_s == 0.0


def test_only_what_the_site_failed_is_counted_as_failed(flights):
    flight = flights.begin("j1", ACME)
    flight.failed = True
    flights.end(flight)
    flights.turned_away(PlugskyError(ErrorKind.UNAUTHENTICATED, "no key"))
    assert (flights.traffic().requests, flights.traffic().failed) == (2, 1)
    flights.turned_away(PlugskyError(ErrorKind.OVERLOADED, "the books are closed"))
    assert (flights.traffic().requests, flights.traffic().failed) == (3, 2)


FAILURES = {"ENGINE_LOST", "INTERNAL", "LOADING", "OVERLOADED", "TAMPERED", "TIMEOUT", "UNREACHABLE"}


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.wire)
def test_a_refusal_is_no_failure_of_the_site(kind):
    assert is_failure(PlugskyError(kind, "it ended")) == (kind.name in FAILURES)


def test_the_first_to_cancel_is_remembered_and_acts_once(flights):
    flight = flights.begin("j1", ACME)
    acts = []
    flight.on_cancel(lambda: acts.append(1))
    assert flights.cancel("j1", "operator")
    flights.cancel_all("drain")
    assert (flight.cancelled_by, acts) == ("operator", [1])
    assert flight.ended_early().kind is ErrorKind.CANCELLED


def test_a_request_cancelled_early_acts_as_soon_as_it_can(flights):
    flight = flights.begin("j1", ACME)
    flight.cancel("client")
    acts = []
    flight.on_cancel(lambda: acts.append(1))
    assert acts == [1]
    with pytest.raises(PlugskyError):
        flight.still_wanted()


async def test_the_control_socket_answers_its_own_site_only(flights):
    with pytest.raises(PlugskyError) as refused:
        await verbs(flights)(12345, "requests", {})
    assert refused.value.kind is ErrorKind.FORBIDDEN


@pytest.mark.parametrize(("verb", "args"), [("reboot", {}), ("cancel", {}), ("cancel", {"job": 7})])
async def test_the_control_socket_refuses_what_it_does_not_know(flights, verb, args):
    with pytest.raises(PlugskyError) as refused:
        await verbs(flights)(0, verb, args)
    assert refused.value.kind is ErrorKind.NOT_FOUND
