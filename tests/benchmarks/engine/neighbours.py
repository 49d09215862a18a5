"""What many tenants, many requests and two engines do to each other. No peer has these, so the engine is its own."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Sequence

from benchmarks import report
from benchmarks.engine import figures, subject
from benchmarks.engine.asks import Ask
from benchmarks.engine.scene import Figures, Scene, Workload, prompt, together, wake
from plugsky.core import frames, ids

BUSY, MANY = "busy", 50
QUIET = ("anna", "ben", "cleo", "dan")
PROMPT, ANSWER = 64, 128
PLACES = 16
QUEUED = (16, 240)
WINDOW_S = 12.0
FULL_S = 120


def _ask(scene: Scene, rng: random.Random, tenant: str) -> Ask:
    return Ask(tokens=prompt(scene, rng, PROMPT), max_tokens=scene.sized(ANSWER), tenant=tenant)


async def measure_tenants(scene: Scene, rng: random.Random) -> Figures:
    """One round: five tenants with one request each, then the same but one of them with fifty."""
    asks = [_ask(scene, rng, tenant) for tenant in (*QUIET, BUSY)]
    more = [_ask(scene, rng, BUSY) for _ in range(MANY - 1)]
    async with subject.running(scene.model, threads=scene.threads) as engine:
        await wake(engine, scene)
        before = await together(engine, asks)
    async with subject.running(scene.model, threads=scene.threads) as engine:
        await wake(engine, scene)
        began = time.perf_counter()
        crowd = [asyncio.create_task(engine.ask(ask)) for ask in more]
        after = await together(engine, asks)
        until = min(answer.end for answer in after[: len(QUIET)])
        total = sum(step.tokens for step in engine.client.steps if began < step.at <= until)
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)
    served = figures.service({name: answer.arrivals for name, answer in zip(QUIET, after, strict=False)}, until)
    served[BUSY] = total - sum(served.values())
    slower = [now.end - now.sent for now in after[: len(QUIET)]]
    alone = [then.end - then.sent for then in before[: len(QUIET)]]
    return {
        "jain": figures.jain(list(served.values())),
        "slower": max(now / then for now, then in zip(slower, alone, strict=True)),
        "alone": statistics.mean(alone),
        "beside": statistics.mean(slower),
    }


def tell_tenants(rounds: Sequence[Figures]) -> str:
    """The index of fairness and what the crowd costs the others."""
    said = {
        "jain": "Jain's index over the tenants' tokens while all five have work",
        "alone": "a quiet tenant's request when each of five sends one, s",
        "beside": "the same when the fifth sends fifty, s",
        "slower": "the slowest quiet tenant, times as long",
    }
    rows = [(text, f"{statistics.median(found[what] for found in rounds):.2f}") for what, text in said.items()]
    return report.table(("what", "median"), rows)


async def measure_engines(scene: Scene, rng: random.Random) -> Figures:
    """One round: an engine alone on all cores, then two that share them as their supervisor would have them."""
    asks = [[_ask(scene, rng, f"tenant-{number}") for number in range(4)] for _ in range(3)]
    async with subject.running(scene.model, threads=scene.threads) as engine:
        await wake(engine, scene)
        answers = await together(engine, asks[0])
        alone = figures.window_rate([answer.arrivals for answer in answers])
    async with (
        subject.running(scene.model, threads=scene.threads) as one,
        subject.running(scene.model, threads=scene.threads) as other,
    ):
        for engine in (one, other):
            await wake(engine, scene)
            engine.client.threads(max(1, scene.threads // 2))
        both = await asyncio.gather(together(one, asks[1]), together(other, asks[2]))
        shared = figures.window_rate([answer.arrivals for answers in both for answer in answers])
    return {"alone": alone, "shared": shared}


def tell_engines(rounds: Sequence[Figures]) -> str:
    """The sum of two beside one."""
    alone, shared = ([found[name] for found in rounds] for name in ("alone", "shared"))
    row = (f"{statistics.median(alone):.1f}", f"{statistics.median(shared):.1f}")
    return report.table(
        ("one alone, tok/s", "two together, tok/s", "ratio"), [(*row, f"{figures.median_ratio(shared, alone):.2f}")]
    )


async def measure_queue(scene: Scene, rng: random.Random) -> Figures:
    """One round: the rate of a full engine, and what is spent between its steps, by how many more wait."""
    found: Figures = {}
    for waiting in QUEUED:
        async with subject.running(scene.model, threads=scene.threads) as engine:
            await wake(engine, scene)
            found |= {
                f"{waiting} {what}": value for what, value in (await _crowded(engine, scene, rng, waiting)).items()
            }
    return found


async def _crowded(engine: subject.Engine, scene: Scene, rng: random.Random, waiting: int) -> Figures:
    runnings = [
        engine.client.submit(
            job=ids.new_id(),
            tenant=f"tenant-{number % PLACES}",
            tokens=prompt(scene, rng, 32),
            params=frames.Params(temperature=0.0, ignore_eos=True),
            max_tokens=512,
        )
        for number in range(PLACES + waiting)
    ]
    await asyncio.gather(*(running.accepted() for running in runnings))
    steps = engine.client.steps
    for _ in range(FULL_S * 10):
        await asyncio.sleep(0.1)
        if steps and steps[-1].tokens == PLACES:
            break
    steps.clear()
    began = time.perf_counter()
    await asyncio.sleep(WINDOW_S * scene.scale)
    seen = [step for step in steps if step.at > began]
    for running in runnings:
        running.cancel()
    spans = [later.at - earlier.at for earlier, later in itertools.pairwise(seen)]
    return {
        "rate": sum(step.tokens for step in seen[1:]) / (seen[-1].at - seen[0].at),
        "between ms": statistics.median(
            1e3 * span - later.t_us / 1e3 for span, later in zip(spans, seen[1:], strict=True)
        ),
        "step ms": statistics.median(step.t_us for step in seen) / 1e3,
    }


def tell_queue(rounds: Sequence[Figures]) -> str:
    """The rates by the length of the queue."""
    few = [found[f"{QUEUED[0]} rate"] for found in rounds]
    rows = []
    for waiting in QUEUED:
        rate = [found[f"{waiting} rate"] for found in rounds]
        between = statistics.median(found[f"{waiting} between ms"] for found in rounds)
        step = statistics.median(found[f"{waiting} step ms"] for found in rounds)
        row = (waiting, f"{statistics.median(rate):.1f}", f"{figures.median_ratio(rate, few):.2f}")
        rows.append((*row, f"{step:.1f}", f"{between:.2f}"))
    return report.table(("waiting", "tok/s", "ratio", "a step, ms", "between steps, ms"), rows)


TENANTS = Workload(f"One tenant with {MANY} requests beside four with one each", measure_tenants, tell_tenants)
ENGINES = Workload("Two busy engines on the same cores", measure_engines, tell_engines)
QUEUE = Workload("A long queue", measure_queue, tell_queue)
