"""The CPU kernels of llama.cpp: which of those that travel a process uses.

A portable wheel (``make portable``) holds one module of kernels per CPU family. Nothing is linked to them: ggml scores
each against the CPU at hand and keeps the fastest that runs. A wheel compiled for one level has its kernels linked in,
and nothing is to load. Only the wheel's own folder is searched, never the working directory.
"""

import ctypes
import re
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError

LINKED: Final = "linked"
_MODULE: Final = re.compile(r"libggml-cpu-([a-z0-9_]+)\.so")
_MAPPED: Final = re.compile(r"/libggml-cpu-([a-z0-9_]+)\.so(?: \(deleted\))?$", re.MULTILINE)


def families(libraries: Path) -> list[str]:
    """The CPU families for which ``libraries`` holds kernels; empty when they are linked in."""
    found = (_MODULE.fullmatch(path.name) for path in libraries.iterdir())
    return sorted(match[1] for match in found if match)


def load(libraries: Path) -> str:
    """Load the kernels of the wheel whose ``libraries`` these are; returns the CPU family, or ``linked``.

    Loading twice changes nothing. Raises ``not_supported`` when no module runs on this CPU.
    """
    if not families(libraries):
        return LINKED
    if (family := loaded()) is None:
        ggml = ctypes.CDLL(str(libraries / "libggml.so"))
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path.restype = None
        ggml.ggml_backend_load_all_from_path(str(libraries).encode())
        family = loaded()
    if family is None:
        raise EngineError(
            ErrorKind.NOT_SUPPORTED,
            "no kernels of llama.cpp run on this CPU",
            why=f"there are modules for {', '.join(families(libraries))}, and none could be loaded",
            next="plugsky doctor",
        )
    return family


def loaded(maps: Path = Path("/proc/self/maps")) -> str | None:
    """The CPU family whose kernels this process has mapped; None before they are loaded."""
    match = _MAPPED.search(maps.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else None
