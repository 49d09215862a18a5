"""Installing a bundle beside copying it, and beside checking it and then copying it, as people do with other tools.

    .venv/bin/python tests/benchmarks/install.py --size 8 --rounds 5 --write

Three ways for the same files on one file system, in turn, each after everything was written and the caches dropped:
`plugsky bundle install` (verified, on disk, current), `cp -r` and `sync`, and `openssl dgst -sha256` of every file,
`cp -r` and `sync`. The kernel's own counts of the process say how much was read and written (getrusage(2)), and the
most memory it had. What a dry run reads, which is the program and the metadata, is taken off what install reads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import big_bundles
import report

GIB = 1 << 30
SECTOR = 512
INSTALL, DRY = "`plugsky bundle install`", "the same with `--dry-run`"
COPY, CHECK = "`cp -r`, `sync`", "`openssl dgst`, `cp -r`, `sync`"
MIB = 1 << 20


@dataclass
class Run:
    """Seconds, bytes read and written, and the most memory in bytes of a command and its children."""

    seconds: float
    read: int
    written: int
    memory: int
    core_seconds: float


def measured(command: list[str], *, cold: bool = True) -> Run:
    """Run `command`; unless not `cold`, with everything written before and nothing in memory."""
    if cold:
        big_bundles.quiet()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said.decode()}")
    return Run(
        seconds,
        used.ru_inblock * SECTOR,
        used.ru_oublock * SECTOR,
        used.ru_maxrss * 1024,
        used.ru_utime + used.ru_stime,
    )


def hashing() -> float:
    """Bytes a second that one core hashes."""
    block, digest = bytes(2 * MIB), hashlib.sha256()
    start = time.perf_counter()
    for _ in range(256):
        digest.update(block)
    return 512 * MIB / (time.perf_counter() - start)


def ways(sealed: big_bundles.Sealed, base: Path) -> dict[str, tuple[Path, list[str]]]:
    """What is compared: where each way writes, and its command."""
    source, site, copy = str(sealed.path), base / "site", base / "copy"
    copying = f"cp -r {source} {copy} && sync"
    checking = f"find {source} -type f -exec openssl dgst -sha256 {{}} + && {copying}"
    return {
        INSTALL: (site, big_bundles.install(sealed, site)),
        DRY: (site, big_bundles.install(sealed, site, "--dry-run")),
        COPY: (copy, ["sh", "-c", copying]),
        CHECK: (copy, ["sh", "-c", checking]),
    }


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("--size", type=float, default=8, help="GiB of payload")
    given = parser.parse_args()
    conditions = big_bundles.conditions()
    with tempfile.TemporaryDirectory(dir=given.base) as folder:
        base = Path(folder)
        sealed = big_bundles.seal(base, int(given.size * GIB))
        runs: dict[str, list[Run]] = {}
        for _ in range(given.rounds):
            for name, (place, command) in ways(sealed, base).items():
                runs.setdefault(name, []).append(measured(command))
                shutil.rmtree(place, ignore_errors=True)
    report.publish("install", body(runs, sealed.payload, conditions, given.rounds), write=given.write)


def body(runs: dict[str, list[Run]], payload: int, conditions: str, rounds: int) -> str:
    def median(name: str, what: Callable[[Run], float]) -> float:
        return statistics.median(what(run) for run in runs[name])

    program = median(DRY, lambda run: run.read)
    rows: list[list[object]] = [
        [
            name,
            f"{median(name, lambda run: run.seconds):.1f} s",
            f"{payload / median(name, lambda run: run.seconds) / 1e6:.0f} MB/s",
            f"{median(name, lambda run: run.core_seconds):.1f} s",
            f"{(median(name, lambda run: run.read) - (program if name == INSTALL else 0)) / payload:.3f}",
            f"{median(name, lambda run: run.written) / payload:.3f}",
            f"{median(name, lambda run: run.memory) / MIB:.0f} MiB",
        ]
        for name in (INSTALL, COPY, CHECK)
    ]
    seconds = {name: [run.seconds for run in found] for name, found in runs.items()}
    rate = hashing()
    found = (
        f"Install takes {report.median_ratio(seconds[INSTALL], seconds[COPY]):.2f} of the time of copying alone;"
        f" checking and copying take {report.median_ratio(seconds[CHECK], seconds[INSTALL]):.2f} as long as it (medians"
        f" of the ratios within a round). Two hashes of every byte need {2 * payload / rate:.1f} s of core time at the"
        f" {rate / 1e6:.0f} MB/s that one core hashes, so no install can take less than {payload / rate:.1f} s on two"
        " free cores."
    )
    command = (
        f"`.venv/bin/python tests/benchmarks/install.py`: {payload / GIB:g} GiB of payload in chunks of"
        f" {big_bundles.CHUNK // MIB} MiB, {rounds} rounds; {conditions}."
    )
    head = ("way", "time", "rate", "core time", "read / payload", "written / payload", "memory")
    return "\n".join(["## Installing", "", command, "", report.table(head, rows), "", found])


if __name__ == "__main__":
    main()
