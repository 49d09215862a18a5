"""The virtual environment: made without ``ensurepip``, filled by pip run straight from its own wheel.

Debian's python3 has the ``venv`` module but not ``ensurepip`` (that is in python3-venv). So the environment is made
with ``--without-pip``, and pip's wheel, which is one of the locked packages, is fetched by its SHA-256 and run as it
is.
"""

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from setup import process
from setup.errors import SetupError
from setup.progress import Step

_CONSIDERED: Final = re.compile(r"(Collecting|Requirement already satisfied:|Ignoring) (?P<name>[A-Za-z0-9._-]+)")
_INSTALLING: Final = "Installing collected packages"
_NETWORK: Final = (
    "read the lines above; when the index was not reached, check the network, PIP_INDEX_URL and PIP_CERT;"
    " then run this again"
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment at ``path`` and the means to change it."""

    path: Path
    pip_wheel: Path
    logs: Path
    root: Path
    environ: Mapping[str, str]
    held: Sequence[int] = field(default=())

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin/python"

    def create(self) -> None:
        """Make it with the running interpreter.

        Raises:
            SetupError: the ``venv`` module is missing or fails.
        """
        process.run_logged(
            [sys.executable, "-m", "venv", "--without-pip", str(self.path)],
            log=self.logs / f"{self.path.name.lstrip('.')}-create.log",
            env=process.clean_environment(self.environ),
            cwd=self.root,
            failure=(
                f"{self.path} cannot be made.",
                "name a Python that has its whole standard library: make setup PYTHON=/usr/bin/python3",
            ),
            held=self.held,
        )

    def pip(self, *arguments: str, log: str, what: str, on_line: Callable[[str], None] = lambda _line: None) -> None:
        """Run pip on it.

        Raises:
            SetupError: pip failed; ``what`` says what could not be done.
        """
        process.run_logged(
            [str(self.python), "-I", f"{self.pip_wheel}/pip", *arguments],
            log=self.logs / log,
            env=process.clean_environment(self.environ),
            cwd=self.root,
            failure=(what, _NETWORK),
            on_line=on_line,
            held=self.held,
        )

    def install_locked(self, requirements: Path, count: int, step: Step) -> None:
        """Install exactly the pins of a lock, as wheels, each with a SHA-256 that the lock names."""
        progress = _InstallProgress(count, step)
        self.pip(
            *(
                "install",
                "--require-hashes",
                "--only-binary",
                ":all:",
                "--no-deps",
                "--progress-bar",
                "off",
                "--no-compile",
            ),
            *("--requirement", str(requirements)),
            log=f"{requirements.stem}-install.log",
            what="The locked packages cannot be installed.",
            on_line=progress.line,
        )

    def remove(self) -> None:
        """Take it away, whole."""
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise SetupError(
                f"{self.path} cannot be removed.", str(error), f"remove it yourself: rm -rf {self.path}"
            ) from error


class _InstallProgress:
    """Turns pip's talk into a count: a package is half done when its file is here, the rest comes at the end."""

    def __init__(self, count: int, step: Step) -> None:
        self._count = count
        self._step = step
        self._seen = 0

    def line(self, line: str) -> None:
        match = _CONSIDERED.match(line)
        if match:
            self._seen = min(self._seen + 1, self._count)
            self._step.update(self._seen, self._count, match["name"])
        elif line.startswith(_INSTALLING):
            self._step.update(self._count, self._count, "unpacking")
