"""Has one model measured in a process of its own, by the engine of any Plugsky, and reads what that process says.

Which Plugsky measures is the caller's choice by its Python: a site asks that of the generation that is to run, a
builder its own. The process gets an almost empty environment, cannot outlive this one, is killed when it takes longer
than it may, and nothing it says is believed beyond its form. :mod:`plugsky.engine.serving.measurer` is the other end.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from plugsky.core import bound_child
from plugsky_bundles.errors import GgufError
from plugsky_bundles.format import is_sha256

MODULE: Final = "plugsky.engine.serving.measurer"
BASE_S: Final = 120
BYTES_PER_S: Final = 20_000_000
"""What the slowest machine that is waited for reads and computes of a model in a second."""
MAX_SAID: Final = 64 * 1024
LOOK_S: Final = 0.5
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL: Final = 300


@dataclass(frozen=True)
class Measured:
    """``nll_micronats`` is the mean NLL in millionths of a nat per token over ``tokens`` tokens of the text.

    It is None when it came out as no number, and for a model that embeds or reranks (then ``tokens`` is 0).
    """

    text_sha256: str
    tokens: int
    nll_micronats: int | None
    answered: bool
    build: str


@dataclass(frozen=True)
class DoesNotFit:
    """The model needs ``need`` bytes of memory, and ``have`` are free."""

    need: int
    have: int


@dataclass(frozen=True)
class Failed:
    """The model could not be measured: why, in one sentence."""

    why: str


Outcome = Measured | DoesNotFit | Failed
Told = Callable[[int], None]


def patience_s(length: int) -> float:
    """How many seconds a model of ``length`` bytes may take."""
    return BASE_S + length / BYTES_PER_S


def measure(python: Path, file: Path, mode: str, threads: int, told: Told, limit_s: float | None = None) -> Outcome:
    """Measure ``file`` with the Plugsky of ``python``.

    ``told`` hears how many per cent are done, about twice a second also when nothing moves. Raises OSError when
    ``python`` cannot be started or ``file`` is not there.
    """
    limit_s = patience_s(file.stat().st_size) if limit_s is None else limit_s
    command = bound_child.command(str(python), MODULE, str(file), mode, str(threads))
    with os.fdopen(os.memfd_create("measurer", os.MFD_CLOEXEC), "w+b") as grumbled:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=grumbled,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            process_group=0,
        )
        try:
            if child.stdout is None:
                raise RuntimeError("its output is a pipe")
            last = _listen(child.stdout, time.monotonic() + limit_s, told)
            if isinstance(last, Failed):
                return last
            code = child.wait(LOOK_S * 20)
        except subprocess.TimeoutExpired:
            return Failed("its process did not end")
        finally:
            if child.returncode is None:  # not reaped, so the number of its group is still its own
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
        return _outcome(last) if code == 0 else Failed(_how_it_ended(code, grumbled))


def health_of(model_id: str, mode: str, outcome: Measured | Failed) -> dict[str, Any] | None:
    """The member ``health`` of a catalogue entry, to be signed; None for a mode without a measure.

    Raises GgufError for a model that does not work: better in the room where it is approved than where it is to run.
    """
    match outcome:
        case Failed(why):
            raise _useless(model_id, why)
        case Measured(answered=False):
            raise _useless(model_id, "its answer to a short question is empty")
        case Measured(nll_micronats=nll) if mode == "generate" and not nll:
            raise _useless(model_id, "what it makes of a fixed text is no number")
        case Measured(text_sha256=text, tokens=tokens, nll_micronats=nll) if mode == "generate":
            return {"text_sha256": text, "tokens": tokens, "nll_micronats": nll}
    return None


def _useless(model_id: str, why: str) -> GgufError:
    return GgufError(f"The model {model_id} does not work with this llama.cpp", why, "Choose another file")


def _listen(pipe: IO[bytes], deadline: float, told: Told) -> bytes | Failed:
    """Read lines until the pipe is closed; the last one."""
    said, percent = b"", 0
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLIN)
    while True:
        told(percent)
        if time.monotonic() >= deadline:
            return Failed("it took longer than it may, and was ended")
        if not poll.poll(int(LOOK_S * 1000)):
            continue
        block = os.read(pipe.fileno(), MAX_SAID)
        if not block:
            return said.rstrip(b"\n").rpartition(b"\n")[2]
        said = (said + block)[-2 * MAX_SAID :]
        percent = max((_percent(line) for line in said.split(b"\n")[:-1]), default=percent)


def _percent(line: bytes) -> int:
    value = _object(line).get("percent")
    return min(100, value) if type(value) is int and value > 0 else 0


def _outcome(line: bytes) -> Outcome:
    values = _object(line)
    measured, unfit, failed = (values.get(name) for name in ("measured", "does_not_fit", "failed"))
    match measured, unfit, failed:
        case {
            "text_sha256": str(text),
            "tokens": int(tokens),
            "nll_micronats": int() | None as nll,
            "answered": bool(answered),
            "build": str(build),
        }, None, None if not tokens or is_sha256(text):
            return Measured(text, tokens, nll, answered, build[:100])
        case None, {"need": int(need), "have": int(have)}, None:
            return DoesNotFit(need, have)
        case None, None, {"what": str(what), "why": str(why)}:
            return Failed(f"{what}: {why}" if why else what)
    return Failed("its process said something else than was asked")


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _how_it_ended(code: int, grumbled: IO[bytes]) -> str:
    grumbled.seek(0)
    said = " ".join(grumbled.read(MAX_SAID).decode("utf-8", "replace").split())[-_TAIL:]
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}" + (f" and said: {said}" if said else "")


def _signal_name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")
