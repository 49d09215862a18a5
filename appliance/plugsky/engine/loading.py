"""From a file on disk to a model that can step: checked by our own reader first, refused with numbers if too large."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine import llama
from plugsky.engine.errors import EngineError
from plugsky.engine.prompts import Prompts
from plugsky.engine.renderer import Renderer
from plugsky.engine.scheduler import Limits
from plugsky.engine.spec import EngineSpec
from plugsky_bundles import gguf
from plugsky_bundles.errors import BundleError

PLACES: Final = 16
BATCH: Final = 256
PREFILL: Final = 64

_REINSTALL: Final = "plugsky bundle verify BUNDLE, then plugsky bundle install BUNDLE"


@dataclass(frozen=True)
class Loaded:
    """A model in memory with everything that serves it."""

    model: llama.Model
    context: llama.Context
    renderer: Renderer | None
    prompts: Prompts
    limits: Limits

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        if self.renderer is not None:
            self.renderer.close()
        self.context.close()
        self.model.close()


def load(spec: EngineSpec, progress: Callable[[float], bool]) -> Loaded:
    """Load ``spec``. ``progress`` gets fractions from 0 to 1 and gives False to stop.

    Raises :class:`EngineError`: ``model_not_found`` when the file is missing, ``tampered`` when it is no GGUF file or a
    damaged one, ``not_supported`` for a mode there is no engine for, ``overloaded`` with both numbers when it does not
    fit into memory.
    """
    if spec.mode != "generate":
        raise EngineError(ErrorKind.NOT_SUPPORTED, f"there is no engine for models of mode {spec.mode}")
    check_file(spec.file)
    model = llama.Model(spec.file, progress)
    renderer = Renderer(model.template, bos=model.bos, eos=model.eos) if model.template else None
    try:
        if renderer is not None:
            renderer.start()
        context = llama.Context(
            model, cells=spec.n_ctx, places=PLACES, batch=BATCH, threads=spec.threads, free_memory=free_memory()
        )
    except EngineError:
        if renderer is not None:
            renderer.close()
        model.close()
        raise
    limits = Limits(cells=context.cells, batch=BATCH, places=PLACES, prefill=PREFILL)
    n_ctx = min(context.cells, model.n_ctx_train)
    return Loaded(model, context, renderer, Prompts(model, renderer, n_ctx), limits)


def check_file(file: Path) -> None:
    """Refuse what llama.cpp should never map. Raises :class:`EngineError` as :func:`load` says."""
    try:
        with file.open("rb") as stream:
            gguf.read(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError:
        raise EngineError(
            ErrorKind.MODEL_NOT_FOUND, f"the model file {file.name} is missing", why=str(file.parent), next=_REINSTALL
        ) from None
    except OSError as error:
        raise EngineError(
            ErrorKind.INTERNAL, f"the model file {file.name} cannot be read", why=error.strerror or str(error)
        ) from error
    except BundleError as error:
        raise EngineError(
            ErrorKind.TAMPERED, f"{file.name} is no sound GGUF file: {error.what}", why=error.why, next=_REINSTALL
        ) from error


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still take: what the kernel calls available, or what is left of its cgroup's limit."""
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    own = (proc / "self/cgroup").read_text().partition("0::/")[2].strip()
    try:
        limit = (cgroups / own / "memory.max").read_text().strip()
        used = int((cgroups / own / "memory.current").read_text())
    except OSError:  # cgroup v1, or no cgroup of our own: the kernel's number is all there is
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
