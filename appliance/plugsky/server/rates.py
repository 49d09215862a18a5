"""Requests and tokens a minute, and requests at a time: what keys and tenants may ask of one gateway. Pure.

Guarantees:

1. A limit of N a minute is a bucket that holds N and fills evenly: N at once after a quiet minute, and never more than
   2 N in any minute.
2. A request passes every limit of its key and of its tenant or none: one that is refused has used up nothing.
3. Tokens are taken when the prompt is counted, with those the answer may have, and given back as the answer did not
   use them. A request larger than its bucket waits for a full one, and leaves it in debt.
4. A refusal says the limit and when to try again. What is held is bounded: a bucket that is full again is forgotten.

Each gateway process counts for itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from plugsky.core.clock import Clock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal, Rate

MAX_METERS: Final = 20_000
BUSY_RETRY_S: Final = 1.0
MINUTE_US: Final = 60_000_000
Headers = list[tuple[bytes, bytes]]


@dataclass
class _Bucket:
    level: float
    at_us: int

    def filled(self, limit: int, now_us: int) -> float:
        """What it holds now."""
        self.level = min(float(limit), self.level + limit * (now_us - self.at_us) / MINUTE_US)
        self.at_us = now_us
        return self.level

    def wait_s(self, limit: int, wanted: int, now_us: int) -> float:
        """Seconds until it holds ``wanted``, or is full where that is more than it can hold. 0: now."""
        return max(0.0, (min(wanted, limit) - self.filled(limit, now_us)) * 60 / limit)


@dataclass
class _Meter:
    """The buckets of a key, or of all keys of a tenant together."""

    requests: _Bucket
    tokens: _Bucket
    running: int = 0


class Rates:
    """The meters of one gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._meters: dict[tuple[str, str], _Meter] = {}

    def __len__(self) -> int:
        return len(self._meters)

    def enter(self, principal: Principal) -> None:
        """Count a request that begins; :meth:`leave` is owed for it. Raises RATE_LIMITED, and none is owed then."""
        now = self._clock.monotonic_us()
        limited = list(self._limited(principal, now))
        for whose, rate, meter in limited:
            if rate.concurrency is not None and meter.running >= rate.concurrency:
                raise _refused(f"This {whose} may have {rate.concurrency} requests at a time", BUSY_RETRY_S)
            limit = rate.requests_per_minute
            if limit is not None and (wait_s := meter.requests.wait_s(limit, 1, now)):
                raise _refused(f"This {whose} may make {limit} requests a minute", wait_s)
        for _, rate, meter in limited:
            meter.running += 1
            if rate.requests_per_minute is not None:
                meter.requests.level -= 1

    def leave(self, principal: Principal) -> None:
        """A request that entered is over."""
        for _, _, meter in self._limited(principal, self._clock.monotonic_us()):
            meter.running = max(0, meter.running - 1)

    def weigh(self, principal: Principal, tokens: int) -> None:
        """Take tokens for a request. Raises RATE_LIMITED and takes none while there are too few."""
        now = self._clock.monotonic_us()
        limited = [
            (whose, rate.tokens_per_minute, meter.tokens)
            for whose, rate, meter in self._limited(principal, now)
            if rate.tokens_per_minute is not None
        ]
        for whose, limit, bucket in limited:
            if wait_s := bucket.wait_s(limit, tokens, now):
                raise _refused(f"This {whose} may use {limit} tokens a minute; this request needs {tokens}", wait_s)
        for _, _, bucket in limited:
            bucket.level -= tokens

    def correct(self, principal: Principal, weighed: int, used: int) -> None:
        """Give back what was weighed and not used, or take what was used beyond."""
        now = self._clock.monotonic_us()
        for _, rate, meter in self._limited(principal, now):
            if rate.tokens_per_minute is not None:
                meter.tokens.filled(rate.tokens_per_minute, now)
                meter.tokens.level = min(rate.tokens_per_minute, meter.tokens.level + weighed - used)

    def headers(self, principal: Principal) -> Headers:
        """The tightest limit of each kind, what is left of it and when it is whole again, as OpenAI's headers say."""
        now = self._clock.monotonic_us()
        found: Headers = []
        for kind in ("requests", "tokens"):
            left = []
            for _, rate, meter in self._limited(principal, now):
                limit = rate.requests_per_minute if kind == "requests" else rate.tokens_per_minute
                bucket = meter.requests if kind == "requests" else meter.tokens
                if limit is not None:
                    left.append((bucket.filled(limit, now), limit, bucket.wait_s(limit, limit, now)))
            if left:
                level, limit, whole_s = min(left)
                found += [
                    (f"x-ratelimit-limit-{kind}".encode(), str(limit).encode()),
                    (f"x-ratelimit-remaining-{kind}".encode(), str(max(0, math.floor(level))).encode()),
                    (f"x-ratelimit-reset-{kind}".encode(), f"{math.ceil(whole_s * 1000)}ms".encode()),
                ]
        return found

    def _limited(self, principal: Principal, now_us: int) -> Iterator[tuple[str, Rate, _Meter]]:
        for whose, name, rate in (
            ("key", principal.key_id, principal.rate),
            ("tenant", principal.tenant, principal.tenant_rate),
        ):
            if rate != Rate():
                yield whose, rate, self._meter((whose, name), rate, now_us)

    def _meter(self, name: tuple[str, str], rate: Rate, now_us: int) -> _Meter:
        meter = self._meters.get(name)
        if meter is None:
            if len(self._meters) >= MAX_METERS:
                self._forget(now_us)
            full = float(rate.requests_per_minute or 0), float(rate.tokens_per_minute or 0)
            meter = self._meters[name] = _Meter(_Bucket(full[0], now_us), _Bucket(full[1], now_us))
        return meter

    def _forget(self, now_us: int) -> None:
        """Let go of who has not been heard of for a minute: their buckets are full again, unless they were in debt."""
        old = [
            name
            for name, meter in self._meters.items()
            if not meter.running and max(meter.requests.at_us, meter.tokens.at_us) < now_us - MINUTE_US
        ]
        for name in old or list(self._meters)[: MAX_METERS // 10]:
            if not self._meters[name].running:
                del self._meters[name]


def _refused(what: str, wait_s: float) -> PlugskyError:
    return PlugskyError(
        ErrorKind.RATE_LIMITED,
        what,
        next=f"try again in {math.ceil(wait_s * 10) / 10:g} s",
        retry_after=wait_s,
    )
