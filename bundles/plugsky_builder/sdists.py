"""Packages of which the index has no wheel: compiled once, for the oldest processor of the target, and kept by hash.

The source is pinned by its lock, and so are the tools that compile it (`build_tools`). A compiler never gives the same
bytes twice for sure, so the wheel is remembered under everything that decides it (source, tools, flags, this Python and
machine), and that very wheel travels from then on. A wheel of no particular Python serves every target; one for this
Python only those that have it. Nothing is compiled for another processor.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Final

from plugsky_builder import build_tools
from plugsky_builder.build_tools import Tools
from plugsky_builder.cache import Cache
from plugsky_builder.fit import Fit
from plugsky_builder.locks import Pin
from plugsky_bundles.errors import SourceError
from plugsky_bundles.progress import Progress, ProgressEvent

BASELINES: Final = {"x86_64": "-O2 -march=x86-64 -mtune=generic", "aarch64": "-O2 -march=armv8-a"}
"""What a compiler is told, by machine: every processor that the target's release runs on."""
EPOCH: Final = "1577836800"


def obtain(pin: Pin, tools: Tools, fit: Fit, cache: Cache, progress: Progress) -> tuple[Path, str]:
    """The cached wheel, compiled with `tools`, and its file name.

    Raises SourceError and its kinds, DigestMismatch, NoSpace or NotCached.
    """
    machine = fit.target.machine if fit.target is not None else platform.machine()
    if machine != platform.machine() or machine not in BASELINES:
        raise SourceError(
            f"{pin.name} {pin.version} cannot be compiled for {fit.name}",
            f"this machine is {platform.machine()}, and nothing is compiled for another",
            "Build on such a machine, or compile the wheel there and name it in `compiled`",
        )
    note = _note(pin, tools)
    if not is_cached(pin, tools, cache):
        cache.going_out(f"{pin.name} {pin.version}")
        progress(ProgressEvent("compile", 0, 1, f"{pin.name} {pin.version}"))
        folder = cache.work(note)
        flags = dict.fromkeys(("CFLAGS", "CXXFLAGS"), BASELINES[machine]) | {"SOURCE_DATE_EPOCH": EPOCH}
        build_tools.compile_one(pin, tools, folder, flags, progress)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"{pin.name} {pin.version} did not compile to one wheel", f"{len(wheels)} came", _REPORT)
        name = wheels[0].name
        cache.keep_note(note, {"file": name, "sha256": cache.adopt(wheels[0])})
        cache.drop_work(note)
        progress(ProgressEvent("compile", 1, 1, f"{pin.name} {pin.version}"))
    known = cache.note(note)
    if known is None:
        raise SourceError(f"{pin.name} {pin.version} is gone", "something else writes to the cache", "Run it again")
    return cache.file(known["sha256"]), known["file"]


def is_cached(pin: Pin, tools: Tools, cache: Cache) -> bool:
    known = cache.note(_note(pin, tools))
    return known is not None and cache.is_sound(known["sha256"])


def _note(pin: Pin, tools: Tools) -> str:
    question = (
        f"{pin.line()}\n{build_tools.text(tools)}{platform.python_version()} {platform.machine()}\n{BASELINES} {EPOCH}"
    )
    return f"sdist-{hashlib.sha256(question.encode()).hexdigest()[:16]}"


_REPORT: Final = "Look at the package on the index; it may need a compiler or libraries that are not here"
