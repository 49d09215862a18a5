"""How inspecting, planning and installing grow, with the bytes of a bundle and with its chunks.

    .venv/bin/python tests/benchmarks/growth.py --sizes 1 4 16 --chunks 1000 10000 100000 --rounds 5 --write

Bundles of some GiB in chunks of 64 MiB, and bundles of 1 GiB at most in many small chunks. `inspect` is the whole
command, which verifies all metadata and lists the bundle; beside it, how long Python takes to start and to import what
the command line imports.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import big_bundles
import report
from install import GIB, MIB, Run, measured

IMPORTS = [sys.executable, "-c", "import plugsky.cli.bundle"]
TARGET = 10_000


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("--sizes", type=float, nargs="*", default=[1, 4, 16], help="GiB, in chunks of 64 MiB")
    parser.add_argument("--chunks", type=int, nargs="*", default=[1000, 10_000, 100_000], help="how many small chunks")
    given = parser.parse_args()
    conditions = big_bundles.conditions()
    wanted = [(int(size * GIB), big_bundles.CHUNK) for size in given.sizes]
    wanted += [(count * _small(count), _small(count)) for count in given.chunks]
    rows, ratios = [], []
    for size, chunk in wanted:
        with tempfile.TemporaryDirectory(dir=given.base) as folder:
            base = Path(folder)
            sealed = big_bundles.seal(base, size, chunk=chunk)
            runs = [_round(sealed, base) for _ in range(given.rounds)]
        count = sealed.chunks
        imports, inspects, installs = zip(*runs, strict=True)
        ratio = report.median_ratio([run.seconds for run in inspects], [run.seconds for run in imports])
        if count == TARGET:
            ratios.append(ratio)
        rows.append(
            (
                _amount(size),
                f"{count:,}",
                _seconds(imports),
                _seconds(inspects),
                f"{ratio:.2f}",
                _seconds(installs),
                f"{statistics.median(size / run.seconds for run in installs) / 1e6:.0f} MB/s",
                f"{max(run.memory for run in installs) / MIB:.0f} MiB",
            )
        )
    head = ("payload", "chunks", "imports", "inspect", "inspect / imports", "install", "rate", "memory")
    body = [
        "## Growth",
        "",
        f"`.venv/bin/python tests/benchmarks/growth.py`: medians of {given.rounds} rounds; {conditions}.",
        "",
        report.table(head, rows),
    ]
    report.publish("growth", "\n".join(body), write=given.write)
    if ratios and max(ratios) > 2:
        raise SystemExit(f"inspecting {TARGET} chunks takes {max(ratios):.2f} times as long as the imports")


def _round(sealed: big_bundles.Sealed, base: Path) -> tuple[Run, Run, Run]:
    """Import, inspect, install; the first two from warm caches, for it is the work that is looked at."""
    inspecting = [str(big_bundles.COMMAND), "bundle", "inspect", str(sealed.path), "--pin", sealed.fingerprint]
    imports, inspect = measured(IMPORTS, cold=False), measured(inspecting, cold=False)
    install = measured(big_bundles.install(sealed, base / "site"))
    shutil.rmtree(base / "site")
    os.sync()
    return imports, inspect, install


def _small(count: int) -> int:
    """A chunk so small that so many are at most 1 GiB, and at most 64 KiB."""
    return min(64 * 1024, GIB // count // 4096 * 4096)


def _amount(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def _seconds(runs: tuple[Run, ...]) -> str:
    return f"{statistics.median(run.seconds for run in runs):.2f} s"


if __name__ == "__main__":
    main()
