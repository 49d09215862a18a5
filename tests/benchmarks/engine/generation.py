"""Generation at the engine's socket beside llama-batched-bench, which decodes and does nothing else.

Both generate after prompts of 128 tokens, in a unified cache of the same size. Of the engine, the tokens are counted
that arrive at its client while all sequences run. Where the rest goes is told from the step frames: the time inside a
step, which is llama_decode and choosing the tokens, against the time from one step to the next.
"""

import asyncio
import itertools
import random
import statistics
from collections.abc import Sequence

from benchmarks import report
from benchmarks.engine import figures, peers, subject
from benchmarks.engine.asks import Ask
from benchmarks.engine.scene import Figures, Scene, Workload, prompt, together, wake

SEQUENCES = (1, 4, 8, 16)
PROMPT, ANSWER = 128, 128
LEFT = subject.CONTEXT // 2
LATER_S = 2.0


async def measure(scene: Scene, rng: random.Random) -> Figures:
    """One round: for each number of sequences the limit, then the engine under each condition."""
    found: Figures = {}
    answer = scene.sized(ANSWER)
    for count in SEQUENCES:
        limit = await asyncio.to_thread(
            peers.batched_bench, scene.model, sequences=count, prompt=PROMPT, answer=answer, threads=scene.threads
        )
        found[f"{count} limit"] = limit.generation
        for name, temperature in (("greedy", 0.0), ("drawn", 1.0)):
            async with subject.running(scene.model, threads=scene.threads) as engine:
                await wake(engine, scene)
                found |= await _rate(engine, scene, rng, f"{count} {name}", count, temperature)
    return found


async def measure_parked(scene: Scene, rng: random.Random) -> Figures:
    """One round at 8 sequences: in a clean cache, after half a cache was left behind, and two seconds after that."""
    found: Figures = {}
    async with subject.running(scene.model, threads=scene.threads) as engine:
        await wake(engine, scene)
        found |= await _rate(engine, scene, rng, "8 clean", 8, 0.0)
        length = LEFT // 8
        await together(engine, [Ask(tokens=prompt(scene, rng, length - 8), max_tokens=8) for _ in range(8)])
        for name in ("left", "later"):
            stats = await engine.client.stats()
            found |= {f"8 {name} parked": stats.parked, f"8 {name} saved": stats.saved}
            found |= await _rate(engine, scene, rng, f"8 {name}", 8, 0.0)
            await asyncio.sleep(LATER_S)
    return found


async def _rate(
    engine: subject.Engine, scene: Scene, rng: random.Random, name: str, count: int, temperature: float
) -> Figures:
    answer = scene.sized(ANSWER)
    asks = [
        Ask(tokens=prompt(scene, rng, PROMPT), max_tokens=answer, temperature=temperature, tenant=f"tenant-{number}")
        for number in range(count)
    ]
    engine.client.steps.clear()
    answers = await together(engine, asks)
    full = [step for step in engine.client.steps if step.tokens == count]
    spans = [later.at - earlier.at for earlier, later in itertools.pairwise(full) if later.n == earlier.n + 1]
    return {
        name: figures.window_rate([given.arrivals for given in answers]),
        f"{name} step ms": statistics.median(step.t_us for step in full) / 1e3,
        f"{name} span ms": statistics.median(spans) * 1e3 if spans else 0.0,
    }


def tell(rounds: Sequence[Figures]) -> str:
    """The table, and where the rest of the distance is."""
    rows, rest = [], []
    for count in SEQUENCES:
        limit = [found[f"{count} limit"] for found in rounds]
        row: list[object] = [count, f"{statistics.median(limit):.1f}"]
        for name in ("greedy", "drawn"):
            rate = [found[f"{count} {name}"] for found in rounds]
            row += [f"{statistics.median(rate):.1f}", f"{figures.median_ratio(rate, limit):.2f}"]
            inside = statistics.median(found[f"{count} {name} step ms"] for found in rounds)
            span = statistics.median(found[f"{count} {name} span ms"] for found in rounds)
            least = count * 1e3 / statistics.median(limit)
            rest.append(
                f"{count} {name}: {span:.1f} ms from step to step, {span - inside:.2f} of them between steps;"
                f" the limit takes {least:.1f}"
            )
        rows.append(row)
    head = ("sequences", "limit, tok/s", "greedy, tok/s", "ratio", "temperature 1, tok/s", "ratio")
    return report.table(head, rows) + "\n\nWhere the rest is: " + ". ".join(rest) + "."


def tell_parked(rounds: Sequence[Figures]) -> str:
    """The table of a cache that holds what nobody runs."""
    clean = [found["8 clean"] for found in rounds]
    rows = []
    for name, said in (("clean", "clean"), ("left", "half a cache left behind"), ("later", "two seconds later")):
        rate = [found[f"8 {name}"] for found in rounds]
        cells = [
            f"{statistics.median(found[f'8 {name} {where}'] for found in rounds):.0f}" if name != "clean" else ""
            for where in ("parked", "saved")
        ]
        rows.append((said, *cells, f"{statistics.median(rate):.1f}", f"{figures.median_ratio(rate, clean):.2f}"))
    return report.table(("cache", "cells parked", "in host memory", "tok/s", "ratio to clean"), rows)


GENERATION = Workload("Generation", measure, tell)
PARKED_CACHE = Workload("Generation in a cache half full", measure_parked, tell_parked)
