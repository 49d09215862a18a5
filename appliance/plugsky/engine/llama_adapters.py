"""LoRA adapters of one model: small files of differences, loaded beside its weights and switched between batches.

llama.cpp applies adapters to a whole context, so one batch serves one adapter or none, and cells that were computed
under one mean nothing under another: who batches keeps them apart. Files are checked as a model's is before they come
here (:func:`plugsky.engine.model_file.check_file` and ``check_digest``).
"""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llama_cpp

from plugsky.core.errors import ErrorKind
from plugsky.engine import llama
from plugsky.engine.errors import EngineError

NONE: Final = ""
"""The id of no adapter: the model's own weights."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter on disk, and how strongly it is applied."""

    file: Path
    scale: float = 1.0


class Adapters:
    """The adapters of one model in memory. Close them before it. Owner's thread only, but for :meth:`check`."""

    def __init__(self, model: llama.Model, files: Mapping[str, AdapterFile]) -> None:
        """Load them all. Raises ``tampered`` for a file that llama.cpp cannot use with this model."""
        self._loaded: dict[str, tuple[Any, float]] = {}
        for name, adapter in files.items():
            handle = llama_cpp.llama_adapter_lora_init(model.handle, os.fsencode(adapter.file))
            if not handle:
                self.close()
                raise EngineError(
                    ErrorKind.TAMPERED, f"the adapter {name} does not fit this model", why=llama.last_error()
                )
            self._loaded[name] = (handle, adapter.scale)

    def check(self, name: str) -> None:
        """Refuse a name of no adapter here."""
        if name != NONE and name not in self._loaded:
            known = ", ".join(sorted(self._loaded)) or "none"
            raise EngineError(
                ErrorKind.NOT_FOUND, f"this model has no adapter {name[:64]!r}", why=f"it has: {known}", param="adapter"
            )

    def use(self, context: llama.Context, name: str) -> None:
        """Let ``context`` compute with the adapter ``name`` from its next batch on; :data:`NONE`: with none."""
        self.check(name)
        chosen = [] if name == NONE else [self._loaded[name]]
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * len(chosen))(*(handle for handle, _ in chosen))
        scales = (ctypes.c_float * len(chosen))(*(scale for _, scale in chosen))
        if llama_cpp.llama_set_adapters_lora(context.handle, handles, len(chosen), scales) != 0:
            raise llama.ContextBrokenError(f"switching to the adapter {name!r} failed")

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        for handle, _ in self._loaded.values():
            llama_cpp.llama_adapter_lora_free(handle)
        self._loaded.clear()
