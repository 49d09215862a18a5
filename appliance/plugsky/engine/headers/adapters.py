"""Which LoRA adapters a model can be served with, from the headers of their files: before llama.cpp sees them. Pure.

An adapter is refused, by its id, unless its metadata call it a LoRA adapter for the model's architecture and each of
its tensors is half of a pair with the dimensions of a matrix of the model. llama.cpp looks at some of this itself, ends
the process over some, and passes over the rest in silence: norms, and the tokens that activate an activated LoRA.
Source: llama.cpp's llama-adapter.cpp, ``build_lora_mm`` and ``build_inp_embd`` in llama-graph.cpp.
"""

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.spec import AdapterSpec
from plugsky_bundles.gguf import GgufInfo, Tensor

NONE: Final = ""
"""The id of no adapter: the model's own weights."""
TYPES: Final = ("F32", "F16", "BF16", "Q8_0")
"""Types of its tensors: those that llama.cpp's converter writes."""
_EMBEDDING: Final = "token_embd.weight"
_OUTPUT: Final = "output.weight"


def check_known(name: str, known: Collection[str]) -> None:
    """Refuse the ``name`` of no adapter in ``known``, telling what there is. Raises ``model_not_found``."""
    if name != NONE and name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise EngineError(
            ErrorKind.MODEL_NOT_FOUND,
            f"this model has no adapter {name[:64]!r}",
            why=f"it has: {there}",
            param="adapter",
        )


def check_names(adapters: Sequence[AdapterSpec]) -> None:
    """Refuse two adapters of one name. Raises ``conflict``."""
    names = [adapter.id for adapter in adapters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EngineError(ErrorKind.CONFLICT, f"there are two adapters {twice} for one model")


def check_fits(name: str, adapter: GgufInfo, model: Sequence[GgufInfo]) -> None:
    """Refuse an adapter that is not for the model whose parts have the headers ``model``. Raises ``not_supported``."""
    why = _misfit(adapter, model)
    if why:
        raise EngineError(ErrorKind.NOT_SUPPORTED, f"the adapter {name} does not fit this model", why=why)


def memory(adapter: GgufInfo, batch: int) -> int:
    """Bytes that an adapter takes beside its model: its tensors, and its largest product for a batch of tokens."""
    widest = max((_four(tensor)[1] for tensor in adapter.tensors if tensor.name.endswith(".lora_b")), default=0)
    return sum(tensor.length for tensor in adapter.tensors) + 4 * batch * widest


def _misfit(adapter: GgufInfo, model: Sequence[GgufInfo]) -> str:
    """What is in the way; empty when nothing is."""
    metadata, wanted = adapter.metadata, model[0].architecture
    for key, value in (("general.type", "adapter"), ("adapter.type", "lora")):
        if metadata.get(key) != value:
            return f"it is no LoRA adapter: its {key} is not {value!r}"
    if adapter.architecture != wanted:
        return f"it was made for the architecture {adapter.architecture}, the model's is {wanted}"
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not isfinite(alpha):
        return "its adapter.lora.alpha is no number"
    if any(key.startswith("adapter.alora.") for key in (*metadata, *adapter.arrays)):
        return "it is an activated LoRA, which counts from certain tokens on only"
    if adapter.split is not None:
        return "it is one of several parts"
    if not adapter.tensors:
        return "it has no tensors"
    matrices = {tensor.name: tensor for part in model for tensor in part.tensors}
    halves = {tensor.name: tensor for tensor in adapter.tensors}
    return next(filter(None, (_misfit_of(tensor, halves, matrices) for tensor in adapter.tensors)), "")


def _misfit_of(tensor: Tensor, halves: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str:
    base, half, rest = tensor.name.partition(".lora_")
    if not half or rest not in ("a", "b"):
        return f"its tensor {tensor.name} is no half of a pair"
    if tensor.type not in TYPES:
        return f"its tensor {tensor.name} is of type {tensor.type}, possible are {', '.join(TYPES)}"
    matrix = model.get(base)
    if matrix is None:
        return f"the model has no tensor {base}"
    if len(matrix.dimensions) < 2:
        return f"the model's {base} is no matrix, and llama.cpp would leave it as it is"
    if base == _EMBEDDING and _OUTPUT not in model:
        return f"the model's {base} is its output matrix too, and llama.cpp cannot adapt one without the other"
    first, second = halves.get(f"{base}.lora_a"), halves.get(f"{base}.lora_b")
    if first is None or second is None:
        return f"it has only one half of the pair for {base}"
    across, down, *deep = _four(matrix)
    a, b = _four(first), _four(second)
    if base == _EMBEDDING:  # its rows are looked up, not multiplied with
        fits = a == [a[0], down, 1, 1] and b == [a[0], across, 1, 1]
    else:
        fits = a == [across, a[1], *deep] and b == [a[1], down, *deep]
    if not fits:
        return f"its pair for {base} is of {_times(first)} and {_times(second)}, the model's is of {_times(matrix)}"
    return ""


def _four(tensor: Tensor) -> list[int]:
    """All four dimensions, as llama.cpp counts them."""
    return [*tensor.dimensions, *[1] * (4 - len(tensor.dimensions))]


def _times(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.dimensions))
