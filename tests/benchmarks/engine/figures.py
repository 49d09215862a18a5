"""The statistics of a benchmark: pure functions from what was measured to what is told."""

import statistics
from collections.abc import Mapping, Sequence


def median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the ratios within each round."""
    return statistics.median(mine / other for mine, other in zip(these, those, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of ``values`` do not exceed: one of them, never between."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all shares are equal, 1/n when one has everything (Jain et al., 1984)."""
    squares = sum(share * share for share in shares)
    if not squares:
        raise ValueError("nobody was served")
    return sum(shares) ** 2 / (len(shares) * squares)


def stolen(before: str, after: str) -> float:
    """The share of core time that the hypervisor gave to others between two texts of /proc/stat (proc_stat(5))."""
    first, last = _ticks(before), _ticks(after)
    passed = [later - earlier for earlier, later in zip(first, last, strict=True)]
    return passed[7] / max(sum(passed[:8]), 1)  # the eighth is steal; guest time is part of user time


def _ticks(stat: str) -> list[int]:
    return [int(word) for word in stat.splitlines()[0].split()[1:]]


def service(tokens: Mapping[str, Sequence[tuple[float, int]]], until: float) -> dict[str, int]:
    """The tokens that each tenant got up to a time, from what arrived when."""
    return {tenant: sum(count for at, count in got if at <= until) for tenant, got in tokens.items()}


def window_rate(arrivals: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Tokens a second of several streams while all of them flow: after the last has begun, until the first ends."""
    begin = max(stream[0][0] for stream in arrivals)
    end = min(stream[-1][0] for stream in arrivals)
    if end <= begin:
        raise ValueError("the streams never flowed at the same time")
    return sum(count for stream in arrivals for at, count in stream if begin < at <= end) / (end - begin)
