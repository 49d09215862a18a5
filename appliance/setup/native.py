"""llama-cpp-python: one wheel in ``.cache/wheels``, supplied from a wheelhouse or compiled from the locked sdist.

A compiled wheel is kept under a key over everything that decides its content: the sdist's SHA-256, the options, our
CMake file, the locked build tools, the compiler's version and the architecture. The work lies in a folder of that key
until the wheel is done, so an interrupted compile goes on where it was. The wheel holds libllama and ggml only, each
once.
"""

import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from setup import index, locks, process, toolchain, verify, wheels
from setup.environment import Environment
from setup.errors import SetupError
from setup.locks import Pin
from setup.progress import Reporter, Step
from setup.state import write_whole

PACKAGE: Final = "llama-cpp-python"
_INCLUDE: Final = Path(__file__).with_name("llama.cmake")
_BACKEND: Final = Path(__file__).with_name("backend.py")
_NINJA: Final = re.compile(r"\[(?P<done>\d+)/(?P<total>\d+)\]\s+(?P<command>.*)")
_OBJECT: Final = re.compile(r"([\w.-]+)\.o\b")

_OPTIONS: Final[Mapping[str, str]] = {
    "LLAVA_BUILD": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_ALL_WARNINGS": "OFF",
    "GGML_NATIVE": "OFF",
    "GGML_CCACHE": "OFF",
    "GGML_OPENMP": "ON",
}
_SETTINGS: Final[Mapping[str, str]] = {
    "cmake.build-type": "Release",
    "build.targets": "llama",
    "wheel.exclude": "/lib;/include;/bin",  # a second copy of every library, headers, CMake files
}
"""What scikit-build-core is told, beside CMake's definitions."""


def cmake_options(baseline: toolchain.Baseline) -> dict[str, str]:
    """CMake's definitions for a build at ``baseline``; every SIMD switch is given, on or off.

    A portable build gives none: each of its modules has its own."""
    if baseline is toolchain.PORTABLE:
        return {**_OPTIONS, **dict.fromkeys(baseline.options, "ON")}
    switches = {name: "ON" if name in baseline.options else "OFF" for name in toolchain.SWITCHES}
    return {**_OPTIONS, **switches} if baseline is not toolchain.GENERIC else dict(_OPTIONS)


def wanted(pin: Pin, build_lock: str, baseline: toolchain.Baseline) -> str:
    """Digest of what a wheel should be made from, the compiler aside: when it changes, a compiled wheel is out of
    date."""
    options = json.dumps([_SETTINGS, cmake_options(baseline), os.uname().machine], sort_keys=True)
    return locks.digest(pin.version, ",".join(sorted(pin.sha256)), options, _INCLUDE.read_bytes(), build_lock)


@dataclass(frozen=True)
class Workshop:
    """The folders and means of the native step."""

    root: Path
    cache: Path
    pip_wheel: Path
    source: index.Source
    environ: Mapping[str, str]
    reporter: Reporter
    held: tuple[int, ...]
    shelf: str = "wheels"

    @property
    def wheelhouse(self) -> Path:
        """Where the wheel in use lies, alone of its version."""
        return self.cache / self.shelf


def provide(shop: Workshop, pin: Pin, build_lock: Path) -> Path:
    """The wheel for this machine, in ``.cache/wheels``: from PLUGSKY_WHEELHOUSE, kept from before, or compiled now.

    Raises:
        SetupError: there is none and it cannot be compiled: no compiler, no index, a wrong file, or a failing build.
    """
    baseline, job_count = toolchain.this_machine()
    goal = wanted(pin, build_lock.read_text(encoding="utf-8"), baseline)
    named = shop.environ.get("PLUGSKY_WHEELHOUSE")
    supplied = _find(Path(named), pin) if named else None
    if supplied is not None:
        return _keep(shop, supplied, {"origin": "supplied", "goal": goal})
    if named:
        shop.reporter.note(f"PLUGSKY_WHEELHOUSE ({named}) has no wheel of {PACKAGE} {pin.version} for this machine.")
    kept = _find(shop.wheelhouse, pin)
    facts = read_facts(kept) if kept else {}
    if kept is not None and facts.get("origin") == "supplied":
        return kept
    return _compiled(shop, pin, build_lock, baseline, job_count)


def provide_portable(shop: Workshop, pin: Pin, build_lock: Path) -> Path:
    """The wheel for every x86-64 machine, on a shelf of its own: kept from before, or compiled now.

    Raises:
        SetupError: this is no x86-64 machine, or as for :func:`provide`.
    """
    if os.uname().machine != "x86_64":
        raise SetupError(
            "The portable wheel is for x86-64.", f"this machine is {os.uname().machine}", "use `make setup`"
        )
    _baseline, job_count = toolchain.this_machine()
    return _compiled(shop, pin, build_lock, toolchain.PORTABLE, job_count)


def _compiled(shop: Workshop, pin: Pin, build_lock: Path, baseline: toolchain.Baseline, job_count: int) -> Path:
    """The wheel on the shelf when it was compiled from all that decides its content, else one compiled now."""
    goal = wanted(pin, build_lock.read_text(encoding="utf-8"), baseline)
    compilers = toolchain.compilers(shop.environ, shop.cache / "native")
    key = locks.digest(goal, compilers.version)
    kept = _find(shop.wheelhouse, pin)
    if kept is not None and read_facts(kept).get("key") == key:
        return kept
    minutes = "seven" if baseline is toolchain.PORTABLE else "three"
    shop.reporter.note(
        f"Compiling {PACKAGE} {pin.version} for {baseline.name} with {compilers.version}, {job_count} at a time:"
        f" about {minutes} CPU minutes, once. The wheel is kept in {shop.wheelhouse}."
    )
    if baseline in (toolchain.X86_64_V2, toolchain.X86_64):
        shop.reporter.note(
            f"This CPU has no AVX2, FMA, F16C or BMI2, so the wheel is built for {baseline.name}: it runs on newer CPUs"
            " too, but several times slower than one compiled on such a CPU."
        )
    built = _compile(shop, pin, build_lock, _Plan(baseline, compilers, job_count, key))
    facts = {"origin": "compiled", "goal": goal, "key": key, "baseline": baseline.name, "compiler": compilers.version}
    wheel = _keep(shop, built, facts)
    shutil.rmtree(shop.cache / "native" / key[:16], ignore_errors=True)
    return wheel


def read_facts(wheel: Path) -> dict[str, str]:
    """How the kept wheel came about; empty when nothing is known."""
    try:
        content = json.loads(_facts_path(wheel).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in content.items()} if isinstance(content, dict) else {}


def _facts_path(wheel: Path) -> Path:
    return wheel.with_name(f"{wheel.name}.json")


def _find(folder: Path, pin: Pin) -> Path | None:
    return wheels.matching(folder, PACKAGE, pin.version, sys.version_info[:2], os.uname().machine)


def _keep(shop: Workshop, wheel: Path, facts: Mapping[str, str]) -> Path:
    """Put ``wheel`` into ``.cache/wheels``, alone: a folder with two wheels of one package would leave a choice."""
    place = shop.wheelhouse / wheel.name
    if wheel.resolve() != place.resolve():
        shop.wheelhouse.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        shutil.copyfile(wheel, part)
        part.replace(place)
    digest = wheels.sha256_of(place)
    write_whole(_facts_path(place), json.dumps({**facts, "sha256": digest}, indent=2, sort_keys=True) + "\n")
    for other in shop.wheelhouse.iterdir():
        if other not in {place, _facts_path(place)}:
            other.unlink()
    origin = f"supplied by {wheel.parent}" if facts["origin"] == "supplied" else "compiled here"
    shop.reporter.note(f"{PACKAGE}: {place.name}, {origin}, sha256 {digest}")
    return place


@dataclass(frozen=True)
class _Plan:
    baseline: toolchain.Baseline
    compilers: toolchain.Compilers
    jobs: int
    key: str


def _compile(shop: Workshop, pin: Pin, build_lock: Path, plan: _Plan) -> Path:
    work = shop.cache / "native" / plan.key[:16]
    tools = _build_tools(shop, work / "tools", build_lock)
    file_name = f"{PACKAGE.replace('-', '_')}-{pin.version}.tar.gz"
    with shop.reporter.step(f"Fetching the source of {PACKAGE}") as step:
        sdist = index.fetch(
            shop.source,
            PACKAGE,
            file_name,
            pin.sha256,
            shop.cache / "downloads",
            lambda n, total: step.update(n, total),
        )
    source = work / "source"
    if not source.is_dir():
        with shop.reporter.step(f"Unpacking {file_name}") as step:
            _unpack(sdist, source, step)
    output = work / "wheel"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    settings = {
        **_SETTINGS,
        "build-dir": str(work / "build"),
        "build.tool-args": f"-j{plan.jobs}",
    }
    definitions = {**cmake_options(plan.baseline), "CMAKE_PROJECT_TOP_LEVEL_INCLUDES": str(_INCLUDE)}
    settings |= {f"cmake.define.{name}": value for name, value in definitions.items()}
    environ = process.clean_environment(
        shop.environ,
        CC=plan.compilers.c,
        CXX=plan.compilers.cxx,
        PATH=f"{tools.path / 'bin'}{os.pathsep}{shop.environ.get('PATH', os.defpath)}",
        GIT_CEILING_DIRECTORIES=str(shop.cache),  # else this checkout's commit is taken for llama.cpp's
    )
    with shop.reporter.step(f"Compiling {PACKAGE}") as step:
        process.run_logged(
            [str(tools.python), "-I", str(_BACKEND), str(source), str(output), json.dumps(settings)],
            log=shop.cache / "logs/llama-compile.log",
            env=environ,
            cwd=source,
            failure=(
                f"{PACKAGE} does not compile.",
                "read the lines above; if disk or memory ran out, free some and run this again: it goes on from there",
            ),
            on_line=lambda line: show_ninja(line, step),
            held=shop.held,
        )
    wheel = _find(output, pin)
    if wheel is None:
        raise SetupError(
            f"The build of {PACKAGE} left no wheel.", f"{output} has none for this Python", "report this with its log"
        )
    verify.check_content(wheel, portable=plan.baseline is toolchain.PORTABLE)
    return wheel


def _build_tools(shop: Workshop, path: Path, build_lock: Path) -> Environment:
    tools = Environment(path, shop.pip_wheel, shop.cache / "logs", shop.root, shop.environ, shop.held)
    ready = path / "ready"
    if not ready.is_file():
        shutil.rmtree(path, ignore_errors=True)
        with shop.reporter.step("Fetching CMake, Ninja and scikit-build-core") as step:
            tools.create()
            tools.install_locked(build_lock, len(locks.read(build_lock)), step)
            ready.touch()
    return tools


def _unpack(sdist: Path, target: Path, step: Step) -> None:
    """Unpack the regular files, without the first folder and the version-control data; ``target`` appears when
    complete."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        for number, member in enumerate(archive, start=1):
            inner = PurePosixPath(member.name).parts[1:]
            if not member.isfile() or ".git" in inner:
                continue
            if ".." in inner or (content := archive.extractfile(member)) is None:
                raise SetupError(f"{sdist.name} cannot be unpacked.", f"it holds {member.name!r}", "report this")
            place = part.joinpath(*inner)
            place.parent.mkdir(parents=True, exist_ok=True)
            with content, place.open("wb") as sink:
                shutil.copyfileobj(content, sink)
            step.update(0, 0, f"{number} files")
    part.replace(target)


def show_ninja(line: str, step: Step) -> None:
    """Pass Ninja's ``[n/m]`` on as progress, with the name of the source file at hand."""
    match = _NINJA.match(line)
    if match:
        built = _OBJECT.search(match["command"])
        step.update(
            int(match["done"]),
            int(match["total"]),
            f"{match['done']}/{match['total']} {built[1] if built else ''}".rstrip(),
        )


def install(environment: Environment, wheel: Path) -> None:
    """Put ``wheel`` into the environment, in the place of any other of its package."""
    environment.pip(
        *("install", "--no-index", "--no-deps", "--force-reinstall", "--no-compile", str(wheel)),
        log="llama-install.log",
        what=f"{wheel.name} cannot be installed.",
    )
