"""Runs a tool of the build: output to a log file and line by line to the caller, its whole process group ended with us.

The child's environment is the caller's less everything that would change *what* is built: flags and options of
compilers, CMake and pip that reach us by chance. What says *how to reach the index* (index, certificates, proxies)
stays.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from setup.errors import SetupError

_TAIL_LINES: Final = 25
_GRACE_SECONDS: Final = 5.0

# SOURCE_DATE_EPOCH makes ggml's CMake files switch SIMD off; the flag variables could smuggle in -march=native.
_DROPPED: Final = frozenset(
    {"SOURCE_DATE_EPOCH", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "NINJAFLAGS"}
    | {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
)
_DROPPED_PREFIXES: Final = ("CMAKE_", "SKBUILD_", "GGML_", "LLAMA_", "PIP_")
_KEPT_PIP: Final = frozenset(
    {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_PROXY"}
    | {"PIP_CERT", "PIP_CLIENT_CERT", "PIP_KEYRING_PROVIDER", "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT", "PIP_RETRIES"}
    | {"PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_CONFIG_FILE"}
)


def clean_environment(environ: Mapping[str, str], **added: str) -> dict[str, str]:
    """``environ`` without what would change the result of a build, plus ``added``."""
    kept = {
        key: value
        for key, value in environ.items()
        if key in _KEPT_PIP or (key not in _DROPPED and not key.startswith(_DROPPED_PREFIXES))
    }
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"} | added


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    failure: tuple[str, str],
    on_line: Callable[[str], None] = lambda _line: None,
    held: Sequence[int] = (),
) -> None:
    """Run ``command`` to its end; all it prints goes to ``log``.

    ``held`` are descriptors that the child keeps open: handing it the set-up's lock means that the lock is free only
    once the child is gone too, even when we are killed outright.

    Raises:
        SetupError: it exited with anything but 0; ``failure`` is (what, next step), the log's last lines are shown.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as sink:
        sink.write(f"$ {' '.join(command)}\n")
        sink.flush()
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=held,
        ) as child:
            try:
                for line in child.stdout or ():
                    sink.write(line)
                    on_line(line.rstrip())
                code = child.wait()
            finally:
                _end_group(child)
    if code != 0:
        what, next_step = failure
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
        raise SetupError(
            what, f"`{Path(command[0]).name}` {outcome(code)}; its full output is in {log}", next_step, tail
        )


def outcome(code: int) -> str:
    """What an exit status says, in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def _end_group(child: subprocess.Popen[str]) -> None:
    """End the child and its children: kindly first, so that Ninja can remove half-written objects, then for certain."""
    if child.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
            return
