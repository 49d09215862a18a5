"""Checks that the compiled wheel is what it was meant to be, and that this machine can run it.

ggml's options change with its versions, and a build without SIMD or with too much of it looks the same until it is
slow or ends with SIGILL somewhere else. So the libraries are counted, loaded, and asked what they were compiled for.
"""

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from setup import process, toolchain
from setup.environment import Environment
from setup.errors import SetupError

CORE: Final = frozenset({"libllama.so", "libggml.so", "libggml-base.so"})
FAMILIES: Final = frozenset({"x64", "sse42", "sandybridge", "haswell", "skylakex", "icelake", "alderlake", "zen4"})
"""CPU families whose kernels a portable wheel must hold; it may hold more."""
LIBRARIES: Final = CORE | {"libggml-cpu.so"}
_SMOKE: Final = Path(__file__).with_name("smoke.py")
_REPORTED: Final = re.compile(r"(\w+) = 1\b")
_DOES_NOT_RUN: Final = (
    "if libgomp.so.1 is missing: `sudo apt-get install libgomp1`; if it was ended by SIGILL, it is for a newer CPU:"
    " unset PLUGSKY_WHEELHOUSE, `rm -r .cache/wheels` and run this again"
)


def check_content(wheel: Path, *, portable: bool = False) -> None:
    """The wheel holds each library once and no other; a ``portable`` one holds the kernels of each CPU family instead
    of those for one level.

    Raises:
        SetupError: it does not; the build's options no longer mean what they meant.
    """
    with zipfile.ZipFile(wheel) as archive:
        shared = [PurePosixPath(name) for name in archive.namelist() if ".so" in PurePosixPath(name).name]
    libraries = LIBRARIES
    if portable:
        kernels = {name.name for name in shared if name.name.startswith("libggml-cpu-")}
        libraries = CORE | {f"libggml-cpu-{family}.so" for family in FAMILIES} | kernels
    expected = sorted(PurePosixPath("llama_cpp/lib", name) for name in libraries)
    if sorted(shared) != expected:
        why = f"libraries in it: {', '.join(map(str, sorted(shared)))}"
        raise SetupError(f"{wheel.name} is not as it should be.", why, "compare appliance/setup/llama.cmake")


def reported_features(system_info: str) -> frozenset[str]:
    """The features that ``llama_print_system_info`` says are on."""
    return frozenset(_REPORTED.findall(system_info))


def missing_features(baseline: toolchain.Baseline, reported: Iterable[str]) -> list[str]:
    """What ``baseline`` promises and the library does not report, and anything of AVX-512 or AMX, which no baseline
    has."""
    have = frozenset(reported)
    beyond = {name for name in have if name.startswith(("AVX512", "AMX", "AVX_VNNI"))}
    return [f"no {name}" for name in baseline.reports if name not in have] + sorted(beyond)


def smoke(environment: Environment, wheel: Path, built_for: str | None) -> str:
    """Load the installed library; returns what it reports of itself. ``built_for`` names the baseline of a wheel made
    here.

    Raises:
        SetupError: it does not load, this CPU cannot run it, or a wheel compiled here lacks its SIMD.
    """
    answer: list[str] = []
    process.run_logged(
        [str(environment.python), "-I", str(_SMOKE)],
        log=environment.logs / "llama-smoke.log",
        env=process.clean_environment(environment.environ),
        cwd=environment.root,
        failure=(
            f"{wheel.name} is installed but does not run.",
            _DOES_NOT_RUN,
        ),
        on_line=answer.append,
        held=environment.held,
    )
    try:
        system_info = str(json.loads(answer[-1])["system_info"])
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{wheel.name} answers in an unknown way.", repr(error), "report this with .cache/logs"
        ) from error
    baseline = next((level for level in toolchain.LEVELS if level.name == built_for), None)
    wrong = missing_features(baseline, reported_features(system_info)) if baseline else []
    if wrong:
        why = f"{', '.join(wrong)}; it reports: {system_info.strip()}"
        raise SetupError(
            f"{wheel.name} was not compiled for {built_for}.",
            why,
            "report this with .cache/logs/llama-compile.log",
        )
    return system_info
