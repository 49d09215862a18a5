"""Measures the engine beside llama.cpp's own programs: one workload, one table.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/engine/run.py WORKLOAD --rounds 5 --write

Both sides have the same GGUF, llama.cpp commit, threads and context of 16,384 tokens. Rounds are interleaved, ratios
are medians of the ratios within a round, and the time that the hypervisor stole is told: on a shared machine a ratio
means more than a rate. The peers are compiled once by peers.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from benchmarks import big_bundles, report
from benchmarks.engine import chats, figures, generation, loading, neighbours, peers, subject
from benchmarks.engine.scene import Figures, Scene, Workload, chance
from plugsky.core import settings
from plugsky.engine.known_text import TEXT
from plugsky_builder import recipe
from plugsky_builder.cache import Cache
from plugsky_builder.sources import obtain
from plugsky_bundles.progress import silent

WORKLOADS: dict[str, Workload] = {
    "generation": generation.GENERATION,
    "parked": generation.PARKED_CACHE,
    "chat": chats.CHAT,
    "shared": chats.SHARED,
    "beside": chats.BESIDE,
    "conversations": chats.TURNS_OF_MANY,
    "tenants": neighbours.TENANTS,
    "engines": neighbours.ENGINES,
    "loading": loading.LOADING,
    "queue": neighbours.QUEUE,
}
DEMO = Path(__file__).parents[3] / "bundles/recipes/demo.toml"
STAT = Path("/proc/stat")


async def rounds_of(workload: Workload, scene: Scene, rounds: int, name: str) -> list[Figures]:
    """All rounds, each with prompts of its own; each is told as it ends."""
    found = []
    for number in range(rounds):
        found.append(await workload.measure(scene, chance(f"{name} {number}")))
        told = ", ".join(f"{what} {value:.3g}" for what, value in found[-1].items())
        print(f"round {number + 1}: {told}", file=sys.stderr, flush=True)
    return found


async def pool_of(model: Path) -> tuple[int, ...]:
    """The tokens of a text of ours, of which prompts are made."""
    async with subject.running(model, threads=1, cells=2048) as engine:
        prepared = await engine.client.prepare(tenant="bench", text=TEXT.read_text())
    return tuple(sorted(set(prepared.tokens)))


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("workload", choices=[*WORKLOADS, "all"], help="which row of the table")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it the demo's SmolLM2-135M-Instruct Q4_1")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every server")
    parser.add_argument("--scale", type=float, default=1.0, help="shorter answers, only to try a workload")
    options = parser.parse_args()
    peers.build()
    peers.check()
    model = options.model or demo_model()
    scene = Scene(model, asyncio.run(pool_of(model)), options.threads, options.scale)
    for name in WORKLOADS if options.workload == "all" else (options.workload,):
        _measure(name, scene, options)


def _measure(name: str, scene: Scene, options: argparse.Namespace) -> None:
    workload, conditions, before = WORKLOADS[name], big_bundles.conditions(), STAT.read_text()
    found = asyncio.run(rounds_of(workload, scene, options.rounds, name))
    stolen = figures.stolen(before, STAT.read_text())
    scaled = "" if scene.scale == 1.0 else f" SCALED by {scene.scale}: not a measurement."
    body = (
        f"### {workload.title}\n\n"
        f"`PYTHONPATH=tests .venv/bin/python tests/benchmarks/engine/run.py {name} --rounds {options.rounds}`:"
        f" {scene.threads} threads;"
        f" {conditions}; {stolen:.1%} of core time stolen.{scaled}\n\n{workload.tell(found)}"
    )
    report.publish(f"engine-{name}", body, write=options.write)


def demo_model() -> Path:
    """The demo's GGUF file, from the cache."""
    return obtain(recipe.load(DEMO).models[0].file, Cache(settings.load({}).values.cache), silent)


if __name__ == "__main__":
    main()
