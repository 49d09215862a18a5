"""The devices that ggml can compute with, by asking it: their names, kinds and memory.

llama-cpp-python binds none of these functions, so they are bound here, on the library that it has loaded. Asking a GPU
for its memory makes its driver set up a context, which takes some of that memory; what is told is what is left. Of the
CPU ggml calls all memory free: how much of the host's memory is left is asked elsewhere.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import llama_cpp

from plugsky.core.settings import Numa
from plugsky.engine.headers.offload import Device, DeviceKind
from plugsky.engine.llama import kernels

_KINDS: Final[tuple[DeviceKind, ...]] = ("cpu", "gpu", "integrated", "accelerator")
"""By ``enum ggml_backend_dev_type``. A "meta" device, which stands for several, comes only where it was asked for."""
_NUMA: Final[dict[Numa, int]] = {
    "off": llama_cpp.GGML_NUMA_STRATEGY_DISABLED,
    "distribute": llama_cpp.GGML_NUMA_STRATEGY_DISTRIBUTE,
    "isolate": llama_cpp.GGML_NUMA_STRATEGY_ISOLATE,
    "numactl": llama_cpp.GGML_NUMA_STRATEGY_NUMACTL,
}


def devices() -> tuple[Device, ...]:
    """Every device, in ggml's order."""
    ggml, base = _libraries()
    found = []
    for number in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(number)
        kind = base.ggml_backend_dev_type(handle)
        if kind >= len(_KINDS):
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        found.append(
            Device(
                number=number,
                name=base.ggml_backend_dev_name(handle).decode("utf-8", "replace"),
                kind=_KINDS[kind],
                description=base.ggml_backend_dev_description(handle).decode("utf-8", "replace"),
                free=free.value,
                total=total.value,
            )
        )
    return tuple(found)


def handles(chosen: Sequence[Device]) -> Any:
    """llama.cpp's list of the devices a model may use: these and, for all of them, the CPU."""
    ggml, _ = _libraries()
    return (ctypes.c_void_p * (len(chosen) + 1))(*(ggml.ggml_backend_dev_get(one.number) for one in chosen), None)


def spread(numa: Numa) -> None:
    """Spread threads and memory over the host's NUMA nodes in this way. Only the first call of a process counts."""
    _libraries()
    llama_cpp.llama_numa_init(_NUMA[numa])


def _libraries() -> tuple[Any, Any]:
    """ggml's registry of devices, and what is known of each."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    kernels.load(folder)
    ggml, base = (ctypes.CDLL(str(folder / name)) for name in ("libggml.so", "libggml-base.so"))
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("name", "description"):
        function = getattr(base, f"ggml_backend_dev_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
    base.ggml_backend_dev_type.argtypes, base.ggml_backend_dev_type.restype = [ctypes.c_void_p], ctypes.c_int
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    base.ggml_backend_dev_memory.restype = None
    return ggml, base
