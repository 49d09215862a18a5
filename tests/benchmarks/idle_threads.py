"""How long idle compute threads may spin: tokens per second of one engine, alone and beside one busy process.

    .venv/bin/python tests/benchmarks/idle_threads.py

Interleaved rounds (every setting once per round, so that a drifting machine hits all alike), the real chat model,
greedy, one request of 64 tokens per measurement, engine and client as in a site. Prints a table in Markdown: medians,
and the ratio to the default of the same round.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from plugsky.core import settings
from plugsky.core.frames import Params
from plugsky.core.ids import new_id
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.spec import EngineSpec
from plugsky_builder import recipe
from plugsky_builder.cache import Cache
from plugsky_builder.sources import obtain
from plugsky_bundles.progress import silent

DEMO = Path(__file__).parents[2] / "bundles/recipes/demo.toml"
DEFAULT = "300000"
SPINS = (DEFAULT, "3000", "0")
TOKENS = 64


@contextlib.contextmanager
def company(busy: bool) -> Iterator[None]:
    """One process that uses a whole core, or none."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def rate(model: Path, spins: str, place: Path) -> float:
    """Tokens per second of one request, prefill apart, with engine threads that spin so long."""
    os.environ["GOMP_SPINCOUNT"] = spins
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    spec = EngineSpec("chat", model, digest, "generate", 1024, settings.physical_cores())
    supervisor = EngineSupervisor(spec, place / "e.sock", log=place / "log")
    await supervisor.start()
    try:
        await supervisor.settled()
        client = EngineClient(place / "e.sock")
        await client.connect(60)
        prepared = await client.prepare(tenant="bench", text="The history of the region begins with")
        answer = client.submit(
            job=new_id(),
            tenant="bench",
            tokens=prepared.tokens,
            params=Params(temperature=0.0, ignore_eos=True),
            max_tokens=TOKENS,
        )
        times = [time.perf_counter() async for _item in answer]
        await client.close()
    finally:
        await supervisor.stop()
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    model = obtain(recipe.load(DEMO).models[0].file, Cache(settings.load({}).values.cache), silent)
    print("| beside | spins | tokens/s, median | ratio to the default, median |\n|---|---|---|---|")
    for busy in (False, True):
        seen: dict[str, list[float]] = {spins: [] for spins in SPINS}
        with tempfile.TemporaryDirectory() as place, company(busy):
            for _ in range(rounds):
                for spins in SPINS:
                    seen[spins].append(asyncio.run(rate(model, spins, Path(place))))
        for spins, rates in seen.items():
            ratios = [mine / default for mine, default in zip(rates, seen[DEFAULT], strict=True)]
            label = "one busy process" if busy else "nothing"
            print(f"| {label} | {spins} | {statistics.median(rates):.1f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
