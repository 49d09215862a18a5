"""What the native part is built with and for: the compilers, the number of jobs, and the CPU baseline.

The baseline is a named level, never the CPU at hand (``-march=native``): a wheel compiled here is carried to other
machines, and an instruction they lack would end the engine with SIGILL. x86-64-v3 (AVX2, FMA, F16C, BMI2) covers the
server and desktop CPUs of the last ten years; a build machine that lacks it falls back to a level that it can run
itself, because the set-up ends with a run of the result. Elsewhere the compiler's default for the architecture is
used. The levels are those of the x86-64 psABI.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from setup.errors import SetupError

_JOB_BYTES: Final = 1 << 30
_PROBE: Final = (
    "#include <omp.h>\n#include <vector>\nint main() { std::vector<int> v(omp_get_max_threads()); return v.empty(); }\n"
)
_INSTALL: Final = "sudo apt-get install build-essential"


@dataclass(frozen=True)
class Baseline:
    """A CPU level: the flags of /proc/cpuinfo it needs, ggml's options it turns on, and what its self-report then
    says."""

    name: str
    needs: frozenset[str]
    options: tuple[str, ...]
    reports: tuple[str, ...]


X86_64_V3: Final = Baseline(
    "x86-64-v3",
    frozenset({"sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"}),
    ("GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2"),
    ("SSE3", "SSSE3", "AVX", "AVX2", "FMA", "F16C", "BMI2"),
)
X86_64_V2: Final = Baseline("x86-64-v2", frozenset({"sse4_2"}), ("GGML_SSE42",), ("SSE3", "SSSE3"))
X86_64: Final = Baseline("x86-64", frozenset(), (), ())
GENERIC: Final = Baseline("generic", frozenset(), (), ())

PORTABLE: Final = Baseline("any x86-64", frozenset(), ("GGML_BACKEND_DL", "GGML_CPU_ALL_VARIANTS"), ())
"""No level but all of them: one module of kernels per CPU family, of which a process loads the fastest that runs."""

LEVELS: Final = (X86_64_V3, X86_64_V2, X86_64, GENERIC)
"""All baselines, the highest first."""

SWITCHES: Final = (
    *X86_64_V3.options,
    "GGML_AVX_VNNI",
    "GGML_AVX512",
    "GGML_AVX512_VBMI",
    "GGML_AVX512_VNNI",
    "GGML_AVX512_BF16",
)
"""Every x86 switch of ggml; each is always given, so that no default of its CMake files decides."""


def baseline_for(machine: str, cpu_flags: frozenset[str]) -> Baseline:
    """The highest level of the table that this CPU can run."""
    if machine != "x86_64":
        return GENERIC
    return next(level for level in LEVELS if level.needs <= cpu_flags)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags that every processor of a ``/proc/cpuinfo`` text has."""
    lines = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    return frozenset.intersection(*map(frozenset, lines)) if lines else frozenset()


def jobs(processors: int, available_bytes: int) -> int:
    """How many compilers to run at once: one per processor, each with 1 GiB (the largest file takes 0.9 GiB with GCC
    12)."""
    return max(1, min(processors, available_bytes // _JOB_BYTES))


def this_machine() -> tuple[Baseline, int]:
    """The baseline and the number of jobs for the machine at hand."""
    flags = cpu_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    return baseline_for(os.uname().machine, flags), jobs(len(os.sched_getaffinity(0)), available)


@dataclass(frozen=True)
class Compilers:
    """The C and C++ compilers by path, and how the C++ one names its version."""

    c: str
    cxx: str
    version: str


def compilers(environ: Mapping[str, str], scratch: Path) -> Compilers:
    """The compilers named by ``CC`` and ``CXX``, else ``cc``/``gcc`` and ``c++``/``g++``, shown to work on a small
    program.

    Raises:
        SetupError: one is missing, or cannot build a C++ program that uses OpenMP.
    """
    c = _find(environ, "C", "CC", ("cc", "gcc", "clang"))
    cxx = _find(environ, "C++", "CXX", ("c++", "g++", "clang++"))
    scratch.mkdir(parents=True, exist_ok=True)
    program = scratch / "probe.cpp"
    program.write_text(_PROBE, encoding="utf-8")
    command = [cxx, "-fopenmp", "-o", str(program.with_suffix("")), str(program)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise SetupError(
            f"The C++ compiler {cxx} cannot build a program.",
            "its standard library or OpenMP is not installed, or it is broken",
            f"install the whole set with `{_INSTALL}`, then run this again",
            done.stderr.strip(),
        )
    version = subprocess.run([cxx, "--version"], check=False, capture_output=True, text=True, errors="replace")
    return Compilers(c, cxx, version.stdout.partition("\n")[0].strip())


def _find(environ: Mapping[str, str], language: str, variable: str, names: tuple[str, ...]) -> str:
    wanted = (environ[variable],) if environ.get(variable) else names
    for name in wanted:
        if path := shutil.which(name, path=environ.get("PATH")):
            return path
    raise SetupError(
        f"There is no {language} compiler on this machine.",
        f"none of {', '.join(wanted)} is on PATH; llama-cpp-python is compiled from source",
        f"`{_INSTALL}`, then run this again (or set PLUGSKY_WHEELHOUSE to a folder with its compiled wheel)",
    )
