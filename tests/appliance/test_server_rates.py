"""What keys and tenants may ask for in a minute and at a time, on a clock that is moved by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.hand_clock import HandClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import UNLIMITED, Principal, Rate
from plugsky.server import rates
from plugsky.server.rates import Rates


def person(rate=UNLIMITED, tenant_rate=UNLIMITED, key="k1", tenant="acme"):
    return Principal(tenant=tenant, key_id=key, rate=rate, tenant_rate=tenant_rate)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def meters(clock):
    return Rates(clock)


def refusal(act, *arguments):
    with pytest.raises(PlugskyError) as refused:
        act(*arguments)
    assert refused.value.kind is ErrorKind.RATE_LIMITED
    return refused.value


def test_who_has_no_limit_is_never_counted(meters):
    for _ in range(1000):
        meters.enter(person())
        meters.weigh(person(), 10**9)
    assert len(meters) == 0
    assert meters.headers(person()) == []


def test_so_many_requests_pass_at_once_and_then_one_for_each_part_of_a_minute(meters, clock):
    asker = person(Rate(requests_per_minute=6))
    for _ in range(6):
        meters.enter(asker)
    refused = refusal(meters.enter, asker)
    assert refused.what == "This key may make 6 requests a minute"
    assert refused.retry_after == pytest.approx(10)
    clock.pass_(seconds=9.99)
    refusal(meters.enter, asker)
    clock.pass_(seconds=0.02)
    meters.enter(asker)
    refusal(meters.enter, asker)


def test_a_refused_request_has_used_up_nothing(meters, clock):
    asker = person(Rate(requests_per_minute=2), Rate(requests_per_minute=1))
    meters.enter(asker)
    for _ in range(5):
        assert "tenant" in refusal(meters.enter, asker).what
    clock.pass_(seconds=60)
    meters.enter(asker)


def test_keys_of_a_tenant_share_its_limit_and_other_tenants_do_not(meters):
    limit = Rate(requests_per_minute=2)
    meters.enter(person(tenant_rate=limit, key="k1"))
    meters.enter(person(tenant_rate=limit, key="k2"))
    refusal(meters.enter, person(tenant_rate=limit, key="k3"))
    meters.enter(person(tenant_rate=limit, key="k4", tenant="other"))


def test_so_many_requests_at_a_time_and_the_next_when_one_is_over(meters):
    asker = person(Rate(concurrency=2))
    meters.enter(asker)
    meters.enter(asker)
    assert refusal(meters.enter, asker).what == "This key may have 2 requests at a time"
    meters.leave(asker)
    meters.enter(asker)


def test_tokens_that_an_answer_did_not_need_are_given_back(meters):
    asker = person(Rate(tokens_per_minute=100))
    meters.weigh(asker, 90)
    refused = refusal(meters.weigh, asker, 20)
    assert "may use 100 tokens a minute; this request needs 20" in refused.what
    meters.correct(asker, 90, 30)
    meters.weigh(asker, 70)


def test_a_request_larger_than_its_bucket_waits_for_a_full_one_and_leaves_a_debt(meters, clock):
    asker = person(Rate(tokens_per_minute=60))
    meters.weigh(asker, 10)
    assert refusal(meters.weigh, asker, 500).retry_after == pytest.approx(10)
    clock.pass_(seconds=10)
    meters.weigh(asker, 120)
    assert refusal(meters.weigh, asker, 1).retry_after == pytest.approx(61)


def test_the_headers_tell_the_tightest_limit(meters, clock):
    asker = person(Rate(requests_per_minute=10, tokens_per_minute=1000), Rate(requests_per_minute=4))
    meters.enter(asker)
    meters.weigh(asker, 250)
    assert dict(meters.headers(asker)) == {
        b"x-ratelimit-limit-requests": b"4",
        b"x-ratelimit-remaining-requests": b"3",
        b"x-ratelimit-reset-requests": b"15000ms",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"750",
        b"x-ratelimit-reset-tokens": b"15000ms",
    }


def test_what_is_remembered_is_bounded(meters, clock, monkeypatch):
    monkeypatch.setattr(rates, "MAX_METERS", 10)
    for number in range(100):
        meters.enter(person(Rate(requests_per_minute=5), key=f"k{number}"))
        meters.leave(person(Rate(requests_per_minute=5), key=f"k{number}"))
        clock.pass_(seconds=1)
    assert len(meters) <= 10


def tries(meters, asker):
    try:
        meters.enter(asker)
    except PlugskyError:
        return False
    return True


@settings(deadline=None)
@given(
    limit=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=120),
)
def test_in_no_minute_pass_more_than_twice_the_limit_and_none_waits_for_ever(limit, pauses):
    clock, passed = HandClock(), list[float]()
    meters, asker, now = Rates(clock), person(Rate(requests_per_minute=limit)), 0.0
    for pause in pauses:
        clock.pass_(seconds=pause)
        now += pause
        waits = [] if tries(meters, asker) else [refusal(meters.enter, asker).retry_after]
        assert all(0 < wait <= 60 / limit + 1e-3 for wait in waits)
        if not waits:
            passed.append(now)
    for begin in passed:
        assert sum(begin <= at < begin + 60 for at in passed) <= 2 * limit
