"""How a model is held, in llama.cpp's own words: its models and contexts are made here, of parameters.

These come from the same values that :mod:`plugsky.engine.headers.estimate` and :mod:`plugsky.engine.headers.offload`
count with, so that what was counted is what is taken. ``n_batch == n_ubatch``, the cache is unified, and no batch asks
for more rows of logits than :func:`~plugsky.engine.headers.estimate.rows` says: llama.cpp's graph reserves a row of the
vocabulary for each.

Flash attention is on, not chosen by llama.cpp: kernels of the CPU have it for every model, and a quantised cache needs
it. Where GPUs compute, llama.cpp asks each whether it has it for the model's heads; otherwise such layers would run on
the CPU, step by step.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llama_cpp

from plugsky.core.settings import KvType
from plugsky.engine.headers.estimate import Holding, rows
from plugsky.engine.headers.offload import Placement
from plugsky.engine.llama import devices as llama_devices

_KV_TYPES: Final[dict[KvType, int]] = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}


def load_model(file: Path, progress: Callable[[float], bool], placement: Placement | None) -> Any:
    """llama.cpp's pointer to the model in ``file``; none when it cannot be loaded, or ``progress`` said stop.

    Its layers go to the devices of ``placement``; without one all are the host's.
    """
    shares = placement.shares if placement is not None else ()
    params = llama_cpp.llama_model_default_params()
    params.progress_callback = llama_cpp.llama_progress_callback(lambda fraction, _data: progress(fraction))
    chosen = llama_devices.handles([share.device for share in shares])
    params.devices = ctypes.addressof(chosen)
    params.n_gpu_layers = sum(share.layers for share in shares)
    # A device's part of the sum is its part of the layers; llama.cpp compares both as the same floats.
    proportions = (ctypes.c_float * llama_cpp.llama_max_devices())(*(float(share.layers) for share in shares))
    params.tensor_split = proportions
    return llama_cpp.llama_model_load_from_file(os.fsencode(file), params)


def make_context(model: Any, holding: Holding, threads: int, *, on_gpu: bool = False) -> Any:
    """llama.cpp's pointer to a context that holds ``model`` as ``holding`` says; none when it cannot be made."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = holding.cells
    params.n_batch = params.n_ubatch = holding.batch
    params.n_seq_max = holding.sequences
    params.n_outputs_max = rows(holding)
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = _KV_TYPES[holding.kv_type]
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if not holding.flash_attention
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
        if on_gpu
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    )
    params.swa_full = holding.whole_window
    params.embeddings = holding.vectors
    params.kv_unified = True
    params.no_perf = True
    return llama_cpp.llama_init_from_model(model, params)
