"""LoRA adapters of one model in memory: files of differences, loaded beside its weights and switched between batches.

llama.cpp applies adapters to a whole context, so one batch serves one adapter or none, and cells that were computed
under one mean nothing under another: who batches keeps them apart. What cannot fit the model was refused before
(:mod:`plugsky.engine.headers.adapters`). The first batch after a switch lays its graph out anew.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

import llama_cpp

from plugsky.engine.headers.adapters import NONE


class Adapters:
    """The adapters of ``model``, llama.cpp's own pointer. Close them before it. Owner's thread only."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._loaded: dict[str, tuple[Any, float]] = {}

    def load(self, name: str, file: Path, scale: float) -> bool:
        """Load one, to be used by its ``name``. False when llama.cpp cannot."""
        handle = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(file))
        if handle:
            self._loaded[name] = (handle, scale)
        return bool(handle)

    def use(self, context: Any, name: str) -> bool:
        """Let ``context``, llama.cpp's own pointer, compute with the adapter ``name`` from its next batch on.

        :data:`NONE`: with none. False when llama.cpp does not do as told. Raises :class:`LookupError` for one that
        was not loaded.
        """
        chosen = [] if name == NONE else [self._loaded[name]]
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * len(chosen))(*(handle for handle, _ in chosen))
        scales = (ctypes.c_float * len(chosen))(*(scale for _, scale in chosen))
        return bool(llama_cpp.llama_set_adapters_lora(context, handles, len(chosen), scales) == 0)

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        for handle, _ in self._loaded.values():
            llama_cpp.llama_adapter_lora_free(handle)
        self._loaded.clear()
