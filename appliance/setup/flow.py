"""The steps of the set-up in their order, each done only when its input has changed since it was last done.

environment -> packages -> native wheel -> native install -> project -> check

The packages are those of ``bundles/locks/dev.txt``; the project is installed as a ``.pth`` on this checkout. When
nothing has changed, the whole takes the time to hash four small files.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from setup import index, locks, native, toolchain, verify
from setup.environment import Environment
from setup.errors import SetupError
from setup.progress import Reporter
from setup.state import Record, exclusive

_LOCK: Final = "bundles/locks/dev.txt"
_BUILD_LOCK: Final = "bundles/locks/build.txt"
_FORMAT: Final = "1"


def set_up(root: Path, environ: Mapping[str, str], reporter: Reporter) -> None:
    """Make ``root/.venv`` complete.

    Raises:
        SetupError: a step cannot be done; the steps before it stay done.
    """

    def waiting() -> None:
        reporter.note("Another set-up is at work in this checkout; waiting for it to end.")

    with exclusive(root / ".cache/setup.lock", waiting) as lock:
        _Flow(root, environ, reporter, lock).run()


def make_portable(root: Path, environ: Mapping[str, str], reporter: Reporter) -> Path:
    """The wheel of llama-cpp-python that uses the best kernels of any x86-64 host, in ``.cache/portable``.

    Raises:
        SetupError: it cannot be compiled.
    """
    with exclusive(root / ".cache/setup.lock", lambda: reporter.note("Waiting for another set-up to end.")) as lock:
        cache = root / ".cache"
        pins = locks.read(root / _LOCK)
        source = index.source_of(environ, index.pip_configurations(environ))
        pip_wheel = _pip_wheel(cache, pins, source, reporter)
        shop = native.Workshop(root, cache, pip_wheel, source, environ, reporter, (lock,), "portable")
        wheel = native.provide_portable(shop, locks.pin_of(pins, native.PACKAGE), root / _BUILD_LOCK)
    reporter.note(f"Build bundles with it: plugsky bundle build RECIPE --wheelhouse {wheel.parent}")
    return wheel


def _pip_wheel(cache: Path, pins: list[locks.Pin], source: index.Source, reporter: Reporter) -> Path:
    pin = locks.pin_of(pins, "pip")
    name = f"pip-{pin.version}-py3-none-any.whl"
    with reporter.step(f"Fetching pip {pin.version}") as step:
        return index.fetch(source, "pip", name, pin.sha256, cache / "downloads", step.update)


class _Flow:
    def __init__(self, root: Path, environ: Mapping[str, str], reporter: Reporter, lock: int) -> None:
        self._root = root
        self._cache = root / ".cache"
        self._environ = environ
        self._reporter = reporter
        self._lock = lock
        self._record = Record(root / ".venv")
        self._pins = locks.read(root / _LOCK)
        self._llama = locks.pin_of(self._pins, native.PACKAGE)
        baseline, _jobs = toolchain.this_machine()
        python = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
        self._goals = {
            "environment": locks.digest(_FORMAT, python, os.uname().machine, str(root)),
            "packages": locks.digest(locks.without(self._pins, native.PACKAGE)),
            "native": native.wanted(self._llama, (root / _BUILD_LOCK).read_text(encoding="utf-8"), baseline),
            "project": locks.digest((root / "pyproject.toml").read_bytes()),
        }

    def _pending(self, step: str) -> bool:
        return not self._record.is_done(step, self._goals[step])

    def _native_pending(self) -> bool:
        return self._pending("native") or not (self._cache / "wheels" / self._record.get("wheel")).is_file()

    def run(self) -> None:
        usable = self._usable()
        steps = ("environment", "packages", "native", "project")
        if usable and not any(map(self._pending, steps)) and not self._native_pending():
            return
        source = index.source_of(self._environ, index.pip_configurations(self._environ))
        if self._native_pending():
            self._check_compiler_early()
        environment = self._environment(_pip_wheel(self._cache, self._pins, source, self._reporter))
        self._make_environment(environment, usable)
        self._install_packages(environment)
        self._provide_native(environment, source)
        self._install_project(environment)
        self._reporter.note("The set-up is complete: .venv/bin/plugsky is ready.")

    def _usable(self) -> bool:
        """Whether the present ``.venv`` can be kept: whole, of this Python, and not left half-way."""
        if self._record.in_progress or not os.access(self._root / ".venv/bin/python", os.X_OK):
            return False
        if self._record.exists:
            return not self._pending("environment")
        marker = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        return (self._root / ".venv" / marker).is_dir()

    def _check_compiler_early(self) -> None:
        """Say that the compiler is missing now, and not after minutes of downloading."""
        if not self._environ.get("PLUGSKY_WHEELHOUSE") and not any((self._cache / "wheels").glob("*.whl")):
            toolchain.compilers(self._environ, self._cache / "native")

    def _environment(self, pip_wheel: Path) -> Environment:
        logs = self._cache / "logs"
        return Environment(self._root / ".venv", pip_wheel, logs, self._root, self._environ, (self._lock,))

    def _make_environment(self, environment: Environment, usable: bool) -> None:
        if not self._pending("environment") and usable:
            return
        if not usable and environment.path.exists():
            self._reporter.note(".venv was left half-way, or made for another Python or place: making it anew.")
            environment.remove()
            self._record = Record(environment.path)
        with self._record.doing("environment", self._goals["environment"]):
            if usable:
                return
            with self._reporter.step(f"Making .venv with Python {sys.version.split()[0]}"):
                environment.create()

    def _install_packages(self, environment: Environment) -> None:
        if not self._pending("packages"):
            return
        requirements = self._cache / "packages.txt"
        requirements.write_text(locks.without(self._pins, native.PACKAGE), encoding="utf-8")
        count = len(self._pins) - 1
        with (
            self._record.doing("packages", self._goals["packages"]),
            self._reporter.step(f"Installing {count} locked packages") as step,
        ):
            environment.install_locked(requirements, count, step)

    def _provide_native(self, environment: Environment, source: index.Source) -> None:
        if not self._native_pending():
            return
        shop = native.Workshop(
            self._root, self._cache, environment.pip_wheel, source, self._environ, self._reporter, (self._lock,)
        )
        wheel = native.provide(shop, self._llama, self._root / _BUILD_LOCK)
        with self._record.doing("native", self._goals["native"], wheel=wheel.name):
            with self._reporter.step(f"Installing {native.PACKAGE} {self._llama.version}"):
                native.install(environment, wheel)
            with self._reporter.step("Loading llama.cpp"):
                report = verify.smoke(environment, wheel, native.read_facts(wheel).get("baseline"))
        self._reporter.note(f"llama.cpp: {report.strip()}")

    def _install_project(self, environment: Environment) -> None:
        if not self._pending("project"):
            return
        with (
            self._record.doing("project", self._goals["project"]),
            self._reporter.step("Installing plugsky from this checkout"),
        ):
            environment.pip(
                *("install", "--no-index", "--no-deps", "--no-build-isolation", "--editable", str(self._root)),
                log="project-install.log",
                what="plugsky cannot be installed from this checkout.",
            )
        if not (environment.path / "bin/plugsky").is_file():
            raise SetupError(
                "The plugsky command is missing from .venv/bin.", "pip did not make it", "report this with .cache/logs"
            )


def clean(root: Path, *, everything: bool) -> list[str]:
    """Remove what the set-up and the checks made; ``everything`` includes ``.venv`` and ``.cache``. Returns what went.

    Raises:
        SetupError: something cannot be removed.
    """
    names = [
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        ".import_linter_cache",
        "htmlcov",
        "build",
        "dist",
    ]
    names += [".cache", ".venv", ".demo"] if everything else [".cache/native", ".cache/logs"]
    paths = [root / name for name in names] + sorted(root.glob(".coverage*"))
    gone: list[str] = []
    for path in paths:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
            else:
                continue
        except OSError as error:
            raise SetupError(f"{path} cannot be removed.", str(error), "remove it yourself") from error
        gone.append(str(path.relative_to(root)))
    return gone
