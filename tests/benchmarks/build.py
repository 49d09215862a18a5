"""How long building takes beside `cp` and `sync` of the same files: `python tests/benchmarks/build.py [GiB] [pairs]`.

Caches are dropped before each run, runs are interleaved, and the median of the ratios counts. A model of the given size
is cut, hashed twice (each chunk, and the whole) and written to the same file system as the copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bundles.gguf_forge import F32_TENSOR, Forge
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_bundles import ceremony

NOW = datetime.now(UTC)
MIB = 1 << 20


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


def timed(work) -> float:
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    start = time.monotonic()
    work()
    subprocess.run(["sync"], check=True)
    return time.monotonic() - start


def main(gibibytes: float, pairs: int) -> None:
    with tempfile.TemporaryDirectory(dir=Path.home()) as scratch:
        base = Path(scratch)
        sha256 = write_model(base / "model.gguf", int(gibibytes * 1024) * MIB)
        (base / "LICENSE").write_text("MIT\n")
        licence = hashlib.sha256(b"MIT\n").hexdigest()
        (base / "bench.toml").write_text(
            f"""
            channel = "bench"
            [[model]]
            id = "big"
            mode = "generate"
            context = 128
            licence = "MIT"
            languages = ["en"]
            health = false
            file = {{ source = "file", path = "model.gguf", sha256 = "{sha256}" }}
            licence-text = {{ source = "file", path = "LICENSE", sha256 = "{licence}" }}
            """
        )
        ceremony.init(base / "trust", b"benchmark", now=NOW)
        asked = recipe.load(base / "bench.toml")

        def build() -> None:
            building.build(asked, base / "out", base / "trust", cache=base / "cache", wheelhouse=base, now=NOW)

        ratios = []
        for _ in range(pairs):
            copied = timed(lambda: subprocess.run(["cp", base / "model.gguf", base / "copy"], check=True))
            (base / "copy").unlink()
            built = timed(build)
            shutil.rmtree(base / "out")
            ratios.append(built / copied)
            print(f"cp {copied:.2f} s, build {built:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.2f} of {gibibytes} GiB")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
