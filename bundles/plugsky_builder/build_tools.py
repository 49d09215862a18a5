"""The tools that compile source packages: the wheels of the recipe's `build-lock`, by hash, and nothing else.

A source package says what it is built with, and by itself pip would take the newest of that from the index and run it.
Here each package is compiled in a new environment that holds the locked wheels alone, and pip refuses a package that
needs more than that or another version. Without a `build-lock` the environment is empty.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pip

from plugsky.core import env
from plugsky_builder import locks, pip_download
from plugsky_builder.fit import fit_of
from plugsky_builder.locks import Pin
from plugsky_builder.recipe import PythonRecipe
from plugsky_bundles.errors import SourceError
from plugsky_bundles.progress import Progress

Tools = tuple[Pin, ...]


def of(recipe: PythonRecipe) -> Tools:
    """The tools that the recipe locks, as far as they are for this Python. Raises NotFound or RecipeError."""
    if recipe.build_lock is None:
        return ()
    environment = fit_of(None).environment
    return tuple(pin for pin in locks.read(recipe.build_lock) if pin.applies(environment))


def text(tools: Tools) -> str:
    """The tools as requirement lines with hashes."""
    return "".join(f"{pin.line()}\n" for pin in tools)


def compile_one(pin: Pin, tools: Tools, into: Path, flags: Mapping[str, str], progress: Progress) -> None:
    """Compile the source package of `pin` to a wheel in the directory `into`.

    `flags` are added to the environment variables of the build. Raises as `pip_download.download`.
    """
    folder = into / "tools"
    shutil.rmtree(folder, ignore_errors=True)
    made = subprocess.run(
        [sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise SourceError(f"{pin.name} cannot be compiled", made.stderr[-300:], "Use a Python with its whole library")
    alone = folder / "pip-alone"
    alone.mkdir()
    (alone / "pip").symlink_to(Path(pip.__file__).parent)
    environment = {**env.for_child(), **flags}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}"
    listing = into / "requirements.in"
    given = ["--no-deps", "--require-hashes", "--progress-bar", "raw", "--no-cache-dir", "--requirement", str(listing)]

    def run(expected: int, *options: str) -> None:
        pip_download.run([*options, *given], environment, expected, progress, str(folder / "bin/python"), str(alone))

    if tools:
        listing.write_text(text(tools), encoding="ascii")
        run(len(tools), "install", "--only-binary", ":all:")
    listing.write_text(f"{pin.line()}\n", encoding="ascii")
    alone_with = ("--no-build-isolation", "--check-build-dependencies")
    run(1, "wheel", "--no-binary", pin.name, *alone_with, "--wheel-dir", str(into))
    listing.unlink()
    shutil.rmtree(folder)
