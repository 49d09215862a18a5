"""Runs a Python module in a process that cannot outlive the one that started it; nor can what the module forks.

Run as a file by a Python that need not have this package::

    python -I bound_child.py PARENT-PID PATH MODULE ARGUMENT...

The kernel sends SIGKILL when the parent ends, however it ends (prctl(2), PR_SET_PDEATHSIG), and the same from this
process to each of its forks, because the wish is not inherited by fork(2). ``PATH`` goes first on the module search
path, unless it is empty. Imports the standard library only.
"""

import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


class _Forks:
    """Binds every fork of this process to it."""

    def __init__(self) -> None:
        self._forking = 0

    def before(self) -> None:
        self._forking = os.getpid()

    def in_child(self) -> None:
        bind(self._forking)


def bind(parent: int) -> None:
    """End with ``parent`` from now on, and at once when it is not the parent any more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def command(python: str, module: str, *arguments: str, path: str = "") -> list[str]:
    """The command that runs ``module`` bound to this process. The starting thread must outlive it."""
    return [python, "-I", str(Path(__file__).absolute()), str(os.getpid()), path, module, *arguments]


def main() -> None:
    parent, path, module = sys.argv[1:4]
    bind(int(parent))
    forks = _Forks()
    os.register_at_fork(before=forks.before, after_in_child=forks.in_child)
    if path:
        sys.path.insert(0, path)
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
