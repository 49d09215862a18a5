"""Runs every fuzz target in a process of its own, one after the other, within bounds, and says what came of it.

A crash, an input that takes more than 5 seconds, or a process beyond 256 MiB ends its target; the input lies in the
target's folder then. The corpus is kept between runs: each goes on from where the last one stopped.

`python -m fuzz.campaign [--seconds 600] [--corpus .cache/fuzz] [TARGET ...]`
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TARGETS = ("metadata", "gguf", "tar", "decoders")
MEMORY_MIB = 256
TIMEOUT = 5
LONGEST = 65536

_STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/\S+.*?exec/s: (\d+) rss: (\d+)Mb")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


@dataclass(frozen=True)
class Result:
    """What libFuzzer said of one target; `corpus` counts inputs, `rss` is the highest in MiB."""

    target: str
    runs: int
    seconds: int
    coverage: int
    features: int
    corpus: int
    rss: int
    crashes: tuple[str, ...]
    exit_status: int
    talk: str

    @property
    def good(self) -> bool:
        return self.exit_status == 0 and not self.crashes and self.runs > 0

    def __str__(self) -> str:
        verdict = "no crash, no hang" if self.good else f"FAILED ({self.exit_status}): {' '.join(self.crashes)}"
        return (
            f"{self.target:<9} {self.runs:>10} runs {self.seconds:>5} s {self.runs // max(self.seconds, 1):>6}/s"
            f"  coverage {self.coverage} ({self.features} features)  corpus {self.corpus}  {self.rss} MiB  {verdict}"
        )


def fuzz(target: str, seconds: int, folder: Path) -> Result:
    """Run one target for `seconds`, in `folder`."""
    corpus, found = folder / "corpus", folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    flags = (
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-timeout={TIMEOUT}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    )
    ended = subprocess.run(
        # Not our own child: Linux counts the memory of whoever starts a program as that program's peak.
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", f"fuzz.fuzz_{target}", *flags, str(corpus)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    )
    statuses = [tuple(map(int, numbers)) for numbers in _STATUS.findall(ended.stdout)]
    coverage, features, inputs, _, _ = statuses[-1] if statuses else (0, 0, 0, 0, 0)
    done = _DONE.search(ended.stdout)
    runs, took = (int(done[1]), int(done[2])) if done else (0, 0)
    crashes = sorted(str(path) for path in set(found.iterdir()) - before)
    rss = max((status[4] for status in statuses), default=0)
    return Result(
        target, runs, took, coverage, features, inputs, rss, tuple(crashes), ended.returncode, ended.stdout[-4000:]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of what comes from media.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together (default 600)")
    parser.add_argument("--corpus", type=Path, default=Path(".cache/fuzz"), help="where inputs are kept")
    chosen = parser.parse_args()
    targets = chosen.targets or TARGETS
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        parser.exit(1, "atheris is not installed here; it comes with the development dependencies\n")
    results = []
    for target in targets:
        result = fuzz(target, max(chosen.seconds // len(targets), 1), chosen.corpus / target)
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        if not result.good:
            sys.stderr.write(result.talk)
        results.append(result)
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
