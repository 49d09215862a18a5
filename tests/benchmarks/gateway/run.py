"""Measures what the gateway adds to an engine: time and processor per token and request, memory, growth.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/gateway/run.py latency --rounds 5 --write

The engine is a stub that costs next to nothing and writes into every token when it was sent (stub.py). Clients, stub
and gateway share the machine; what the clients and the stub cost themselves is measured by asking the stub directly,
and taken off. `latency` compares with the LiteLLM proxy before the same stub, installed from PyPI into `.cache`.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import big_bundles, report
from benchmarks.engine.figures import percentile, stolen
from benchmarks.gateway import sites
from benchmarks.gateway.load import Target, holding, streams
from benchmarks.gateway.sites import Served

STAT = Path("/proc/stat")
PEOPLE = 16
PACE_MS = 50.0
LONG, SHORT_EACH = 200, 30
IDLE, IDLE_S = 1000, 15.0
KEYS, ROWS, ASKING = 100_000, 1_000_000, 64
QUICK_MS = 2.0
EACH = 40


@dataclass(frozen=True)
class Cost:
    """One round of one target. Latencies in milliseconds as the client sees them; processor in milliseconds."""

    p50: float
    p99: float
    token_ms: float
    request_ms: float


async def cost(served: Served) -> Cost:
    """Long answers and short ones: of both together follows what a token and what a request costs."""
    before = served.cpu_s()
    long = await streams(served.target, people=PEOPLE, requests=1, max_tokens=LONG)
    between = served.cpu_s()
    short = await streams(served.target, people=PEOPLE, requests=SHORT_EACH, max_tokens=1)
    after = served.cpu_s()
    # between - before = long.requests * request + tokens * token; after - between = short.requests * (request + token)
    each = (after - between) / short.requests
    token = (between - before - long.requests * each) / (len(long.tokens) - long.requests)
    return Cost(percentile(long.tokens, 0.5), percentile(long.tokens, 0.99), token * 1000, (each - token) * 1000)


async def latency(rounds: int) -> str:
    """Added latency and processor time, beside LiteLLM."""
    found: dict[str, list[Cost]] = defaultdict(list)
    with sites.workplace() as folder:
        async with (
            sites.stub_engine(folder, PACE_MS) as (direct, _),
            sites.gateway(folder, "site") as ours,
            sites.litellm(folder, direct.target.port) as theirs,
        ):
            for number in range(rounds):
                for served in (direct, ours, theirs):
                    one = await cost(served)
                    found[served.target.name].append(one)
                    print(f"round {number + 1}: {served.target.name}: {one}", file=sys.stderr, flush=True)
    bare, mine, other = found.values()
    rows = []
    for name, costs in found.items():
        p50, p99 = _added(costs, bare, "p50"), _added(costs, bare, "p99")
        processor = (
            statistics.median(one.token_ms for one in costs),
            statistics.median(one.request_ms for one in costs),
        )
        shown = ("", "") if costs is bare else (f"{p50:.2f} ms", f"{p99:.2f} ms")
        seen = statistics.median(one.p50 for one in costs), statistics.median(one.p99 for one in costs)
        rows.append((name, f"{seen[0]:.2f} / {seen[1]:.2f} ms", *shown, *(f"{each:.3f} ms" for each in processor)))
    ratios = [_added(other, bare, which) / _added(mine, bare, which) for which in ("p50", "p99")]
    head = ("", "under way p50 / p99", "added p50", "added p99", "processor per token", "per request")
    return (
        f"{PEOPLE} streams of {LONG} tokens, one each {PACE_MS:g} ms.\n\n{report.table(head, rows)}\n\n"
        f"LiteLLM adds {ratios[0]:.1f} times as much at p50, {ratios[1]:.1f} times as much at p99."
    )


def _added(costs: Sequence[Cost], bare: Sequence[Cost], which: str) -> float:
    return statistics.median(getattr(one, which) - getattr(base, which) for one, base in zip(costs, bare, strict=True))


async def idle(rounds: int) -> str:
    """The memory of a thousand streams that wait."""
    rows = []
    with sites.workplace() as folder:
        async with sites.stub_engine(folder, PACE_MS):
            for number in range(rounds):
                async with sites.gateway(folder, f"site-{number}") as ours:
                    before = ours.rss()
                    async with holding(ours.target, IDLE):
                        cpu = ours.cpu_s()
                        await asyncio.sleep(IDLE_S)
                        rows.append((before, ours.rss(), (ours.cpu_s() - cpu) / IDLE_S))
                        print(f"round {number + 1}: {rows[-1]}", file=sys.stderr, flush=True)
    before, held = (max(row[column] for row in rows) / (1 << 20) for column in (0, 1))
    busy = statistics.median(row[2] for row in rows)
    head = ("streams", "memory before", "memory with them", "for each", "processor")
    row = (
        f"{IDLE:,}",
        f"{before:.0f} MiB",
        f"{held:.0f} MiB",
        f"{(held - before) * 1024 / IDLE:.0f} KiB",
        f"{busy:.1%} of a core",
    )
    return report.table(head, [row])


async def growth(rounds: int) -> str:
    """A request on a new site, and on one with many keys and a long ledger."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with sites.workplace() as folder:
        async with (
            sites.stub_engine(folder, QUICK_MS),
            sites.gateway(folder, "new", keys=ASKING) as new,
            sites.gateway(folder, "old", keys=ASKING, rows=ROWS, others=KEYS) as old,
        ):
            for number in range(rounds):
                for name, served in (("new", new), ("old", old)):
                    found[name].append(await _requests(served))
                    print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    rows = []
    for name, what in (("new", f"{ASKING} keys, an empty ledger"), ("old", f"{KEYS:,} keys, {ROWS:,} ledger rows")):
        times = [statistics.median(column) for column in zip(*found[name], strict=True)]
        ratio = report.median_ratio([one[0] for one in found[name]], [one[0] for one in found["new"]])
        rows.append((what, f"{times[0]:.2f} ms", f"{times[1]:.2f} ms", f"{ratio:.3f}"))
    return report.table(("site", "a request, mean", "p99", "to the new site"), rows)


async def _requests(served: Served) -> tuple[float, float]:
    """The mean time of a short request and its p99, in milliseconds, of four people with keys of their own."""
    times: list[float] = []
    for key in served.keys:
        seen = await streams(Target("", served.target.port, key), people=1, requests=EACH, max_tokens=1)
        times += seen.firsts
    return statistics.mean(times), percentile(times, 0.99)


WORKLOADS: dict[str, tuple[str, Callable[[int], Awaitable[str]]]] = {
    "latency": ("What the gateway adds to a token", latency),
    "idle": ("A thousand streams that wait", idle),
    "growth": ("Requests on a site that has grown", growth),
}


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("workload", choices=[*WORKLOADS, "all"], help="which table")
    options = parser.parse_args()
    for name in WORKLOADS if options.workload == "all" else (options.workload,):
        title, measure = WORKLOADS[name]
        conditions, before = big_bundles.conditions(), STAT.read_text()
        told = asyncio.run(measure(options.rounds))
        gone = stolen(before, STAT.read_text())
        body = (
            f"### {title}\n\n`PYTHONPATH=tests .venv/bin/python tests/benchmarks/gateway/run.py {name} --rounds"
            f" {options.rounds}`: {conditions}; {gone:.1%} of core time stolen.\n\n{told}"
        )
        report.publish(f"gateway-{name}", body, write=options.write)


if __name__ == "__main__":
    main()
