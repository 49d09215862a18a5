"""Runs a tool of the build machine: named when it is missing, never without a time limit, and ended with its children.

What it says is kept in memory, at most 1 MiB of each stream. The operator's passphrase never reaches it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from plugsky.core import env
from plugsky_bundles.errors import SourceError

MAX_SAID: Final = 1 << 20
Tick = Callable[[bytes], None]
"""Hears what a tool has written to its standard output so far."""
TICK_SECONDS: Final = 0.2
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Said:
    """How a tool ended (`code` as in `subprocess`) and what it said."""

    code: int
    out: bytes
    err: str

    @property
    def last(self) -> str:
        """The end of what it complained about, for an error."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-400:] or f"exit status {self.code}"


def find(tool: str, package: str) -> str:
    """Where `tool` is. Raises SourceError naming the Debian `package` that brings it."""
    path = tool if Path(tool).is_absolute() else shutil.which(tool, path=PATH)
    if path is None or not os.access(path, os.X_OK):
        raise SourceError(
            f"{Path(tool).name} is not on this machine", f"it comes with {package}", f"apt-get install {package}"
        )
    return path


def run(
    command: Sequence[str],
    *,
    seconds: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    inherited: bool = False,
    keep: Collection[int] = (),
    tick: Tick = lambda _: None,
) -> Said:
    """Run `command` for at most `seconds`; `tick` is called about five times a second.

    Its environment is a plain one with `environment` added; with `inherited`, that of this process without secrets.
    `keep` are descriptors that it shall have. Raises SourceError when the time is over.
    """
    base = env.for_child() if inherited else {"PATH": PATH}
    with _memory("in") as given, _memory("out") as out, _memory("err") as err:
        given.write(stdin)
        given.seek(0)
        child = subprocess.Popen(
            command,
            stdin=given,
            stdout=out,
            stderr=err,
            env={**base, "LC_ALL": "C.UTF-8", **(environment or {})},
            pass_fds=tuple(keep),
            process_group=0,
        )
        try:
            code = _wait(child, seconds, out, tick)
        finally:
            if child.returncode is None:  # not reaped, so the number of its group is still its own
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if code is None:
            raise SourceError(
                f"{Path(command[0]).name} took too long", f"more than {seconds:.0f} seconds", "Run it again"
            )
        return Said(code, _read(out), _read(err).decode("utf-8", "replace"))


def _wait(child: subprocess.Popen[bytes], seconds: float, out: IO[bytes], tick: Tick) -> int | None:
    for _ in range(int(seconds / TICK_SECONDS) + 1):
        try:
            return child.wait(TICK_SECONDS)
        except subprocess.TimeoutExpired:
            tick(os.pread(out.fileno(), MAX_SAID, 0))
    return None


def _memory(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "w+b")


def _read(said: IO[bytes]) -> bytes:
    return os.pread(said.fileno(), MAX_SAID, 0)
