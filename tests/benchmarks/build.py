"""How long building takes beside `cp` of the same file, alone and with `sync`, which building does too.

    .venv/bin/python tests/benchmarks/build.py --size 4 --rounds 5 --write

A model of the given size is cut, hashed twice (each chunk, and the whole) and written to the same file system as the
copy, in turn with it, each after everything was written and the caches dropped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import big_bundles
import report
from install import GIB, MIB, hashing

from bundles.gguf_forge import F32_TENSOR, Forge
from bundles.recipe_text import local, one_model
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_bundles import ceremony

NOW = datetime.now(UTC)


@dataclass
class Run:
    """Seconds of the work, seconds until it is on disk too, and seconds of core time."""

    seconds: float
    synced: float
    core_seconds: float


def write_model(path: Path, size: int) -> str:
    """A GGUF of about `size` bytes: tensors of 100 MiB, no two alike. Returns its SHA-256."""
    rows = 100 * MIB // 4 // 1024
    forge = Forge(
        tensors=[(f"blk.{n}.weight", (1024, rows), F32_TENSOR, 100 * MIB) for n in range(size // (100 * MIB))]
    )
    head = forge.header()
    digest = hashlib.sha256()
    with path.open("wb") as out:
        block = bytearray(os.urandom(MIB))
        head += bytes(-len(head) % forge.alignment)
        out.write(head)
        digest.update(head)
        for number in range(len(forge.tensors) * 100):
            struct.pack_into("<Q", block, 0, number)
            out.write(block)
            digest.update(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def measured(work: Callable[[], object]) -> Run:
    big_bundles.quiet()
    start, before = time.monotonic(), os.times()
    work()
    seconds, after = time.monotonic() - start, os.times()
    os.sync()
    return Run(seconds, time.monotonic() - start, sum(after[:4]) - sum(before[:4]))


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("--size", type=float, default=4, help="GiB of the model")
    given = parser.parse_args()
    conditions = big_bundles.conditions()
    with tempfile.TemporaryDirectory(dir=given.base) as scratch:
        base = Path(scratch)
        sha256 = write_model(base / "model.gguf", int(given.size * GIB))
        size = (base / "model.gguf").stat().st_size
        (base / "LICENSE").write_text("MIT\n")
        licence = hashlib.sha256(b"MIT\n").hexdigest()
        text = one_model(
            f"file = {local('model.gguf', sha256)}", local("LICENSE", licence), channel="bench", model="big"
        )
        (base / "bench.toml").write_text(text)
        ceremony.init(base / "trust", b"benchmark", now=NOW)
        asked = recipe.load(base / "bench.toml")

        def build() -> None:
            building.build(asked, base / "out", base / "trust", cache=base / "cache", wheelhouse=base, now=NOW)

        copies, builds = [], []
        for _ in range(given.rounds):
            copies.append(measured(lambda: subprocess.run(["cp", base / "model.gguf", base / "copy"], check=True)))
            (base / "copy").unlink()
            builds.append(measured(build))
            shutil.rmtree(base / "out")
    report.publish("build", body(copies, builds, size, conditions), write=given.write)


def body(copies: list[Run], builds: list[Run], size: int, conditions: str) -> str:
    def row(name: str, runs: list[Run], seconds: Callable[[Run], float]) -> tuple[str, ...]:
        taken = statistics.median(map(seconds, runs))
        core = statistics.median(run.core_seconds for run in runs)
        return name, f"{taken:.1f} s", f"{size / taken / 1e6:.0f} MB/s", f"{core * GIB / size:.2f} s"

    rows = [
        row("build", builds, lambda run: run.synced),
        row("`cp`, `sync`", copies, lambda run: run.synced),
        row("`cp`", copies, lambda run: run.seconds),
    ]
    synced = report.median_ratio([run.synced for run in builds], [run.synced for run in copies])
    alone = report.median_ratio([run.synced for run in builds], [run.seconds for run in copies])
    hashes, cores = 2 * GIB / hashing(), os.cpu_count() or 1
    found = (
        f"Building takes {synced:.2f} of the time of `cp` and `sync`, {alone:.2f} of that of `cp`, which leaves its"
        " copy in memory (medians of the ratios within a round). What is built is on disk when the build ends. Two"
        f" hashes of every byte are {hashes:.2f} s of core time a GiB here, so no build can take less than"
        f" {hashes / min(cores, 2):.2f} s a GiB on {cores} free cores."
    )
    command = (
        f"`.venv/bin/python tests/benchmarks/build.py`: a model of {size / GIB:.1f} GiB, {len(builds)} rounds;"
        f" {conditions}."
    )
    head = ("way", "time", "rate", "core time a GiB")
    return "\n".join(["## Building", "", command, "", report.table(head, rows), "", found])


if __name__ == "__main__":
    main()
