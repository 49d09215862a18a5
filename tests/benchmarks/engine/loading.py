"""How long a model takes to load and what memory it then holds, beside llama-server and llama.cpp's own calls."""

import asyncio
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import report
from benchmarks.engine import figures, peers, subject
from benchmarks.engine.asks import Ask
from benchmarks.engine.scene import Figures, Scene, Workload, prompt, together, wake

MIB = 1 << 20
_OWN = """
import sys, time, llama_cpp
def call():
    model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.kv_unified = int(sys.argv[2]), int(sys.argv[3]), True
    assert llama_cpp.llama_init_from_model(model, params)
llama_cpp.llama_backend_init()
began = time.perf_counter()
call()
print(time.perf_counter() - began)
"""


async def measure(scene: Scene, rng: random.Random) -> Figures:
    """One round: each side loads, then answers eight requests, so that the memory is in use."""
    asks = [Ask(tokens=prompt(scene, rng, 256), max_tokens=16) for _ in range(8)]
    command = [sys.executable, "-c", _OWN, str(scene.model), str(subject.CONTEXT), str(scene.threads)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, env=os.environ)
    found: Figures = {"own": float(done.stdout)}
    async with peers.llama_server(scene.model, slots=8, threads=scene.threads) as peer:
        found["theirs"] = peer.loaded_s
        await wake(peer.server, scene)
        await together(peer.server, asks)
        found["their rss"] = sum(map(subject.resident, subject.family(peer.pid))) / MIB
    async with subject.running(scene.model, threads=scene.threads) as engine:
        found["ours"] = engine.loaded_s
        await wake(engine, scene)
        await together(engine, asks)
        found["our rss"] = subject.resident(engine.pid) / MIB
        found["children rss"] = engine.rss() / MIB - found["our rss"]
    return found


def tell(rounds: Sequence[Figures]) -> str:
    """Times from the start of the process to ready, and memory."""
    middle = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    more = middle["our rss"] - middle["their rss"]
    ours, theirs, own = ([found[name] for found in rounds] for name in ("ours", "theirs", "own"))
    rows = [
        ("engine", f"{middle['ours']:.2f} s", f"{middle['our rss']:.0f} MiB"),
        ("llama-server", f"{middle['theirs']:.2f} s", f"{middle['their rss']:.0f} MiB"),
        ("llama.cpp's own calls", f"{middle['own']:.2f} s", ""),
    ]
    return (
        report.table(("what", "start to ready", "memory after 8 requests"), rows)
        + f"\n\nThe engine takes {figures.median_ratio(ours, theirs):.2f} of llama-server's time and"
        f" {figures.median_ratio(ours, own):.2f} of that of llama.cpp's own calls, with the start of its process and"
        f" the SHA-256 of the whole file; it holds {more:+.0f} MiB beside llama-server,"
        f" and {middle['children rss']:.0f} MiB are in the child that renders templates."
    )


LOADING = Workload("Loading and memory", measure, tell)
