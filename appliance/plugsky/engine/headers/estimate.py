"""The memory that a model will take, from the header of its GGUF alone: before llama.cpp maps a byte. Pure.

Each part was measured against what llama.cpp reports of its buffers while it loads, and of the process:
* ``weights``: the tensors as mapped, and a second copy of those that llama.cpp rearranges for the CPU at hand;
* ``vocabulary``: llama.cpp's tables of tokens and merges, in memory of its own;
* ``kv``: keys and values of each layer that keeps them, and the states of recurrent layers, one for each sequence;
* ``compute``: the largest moment of the graph: a layer with its masks, or the output matrix over its rows;
* ``outputs``: the rows of logits that a batch hands out;
* ``adapters``: what the model's LoRA adapters take beside it, as they say (:mod:`plugsky.engine.headers.adapters`).
The sum is within a tenth of the truth (tests hold it to that), above rather than below where llama.cpp's allocator
leaves gaps that cannot be foreseen. A context is made of the same :class:`Holding` that was counted here.

Layers on GPUs take their weights and their cache with them (:mod:`plugsky.engine.headers.offload`); the rest is the
host's.
"""

from dataclasses import dataclass
from typing import Final

from plugsky.core.settings import KvType
from plugsky.engine.headers.shape import Layer, Shape, block_of
from plugsky_bundles.gguf import Tensor
from plugsky_bundles.gguf_types import TENSOR_TYPES
from plugsky_bundles.sizes import size

_FLOAT: Final = 4
_NAME: Final = 168
"""Bytes of llama.cpp's tables for one token or merge: 137 to 170 were measured."""
_PAD: Final = 256
"""llama.cpp rounds the cells of a cache up to this."""
_TYPES: Final = {layout.name: layout for layout in TENSOR_TYPES.values()}
_X86: Final = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_ARM: Final = {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4}
"""Types that are rearranged where rows are a multiple of this. Source: ggml-cpu/repack.cpp."""


@dataclass(frozen=True, slots=True)
class Holding:
    """How a model is to be held: all that its memory depends on beside the file."""

    cells: int
    """KV cells that all sequences share."""
    batch: int
    """Tokens of the largest batch."""
    sequences: int
    outputs: int
    """Rows of logits that one batch may ask for. llama.cpp keeps one for each sequence, and of vectors one for each
    token, however few these are."""
    kv_type: KvType = "f16"
    whole_window: bool = True
    """Layers that see a window only keep every cell all the same (llama.cpp's ``swa_full``)."""
    flash_attention: bool = True
    vectors: bool = False
    """Vectors are wanted of all tokens (embedding and reranking)."""
    features: frozenset[str] = frozenset()
    """What llama.cpp says of its CPU kernels, as in ``AVX2`` and ``REPACK``."""
    adapters: int = 0
    """Bytes that adapters take beside the model."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes, part by part."""

    weights: int
    vocabulary: int
    kv: int
    compute: int
    outputs: int
    adapters: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.vocabulary + self.kv + self.compute + self.outputs + self.adapters

    def __str__(self) -> str:
        adapters = f", {size(self.adapters)} adapters" if self.adapters else ""
        return (
            f"{size(self.weights)} weights, {size(self.kv)} KV cache, {size(self.compute)} compute buffers, "
            f"{size(self.outputs)} outputs, {size(self.vocabulary)} vocabulary{adapters}"
        )


def estimate(model: Shape, holding: Holding, gpu_layers: int = 0) -> Estimate:
    """What ``model`` takes of the host's memory when it is held like this.

    The last ``gpu_layers`` are elsewhere; the output matrix counts as the one after the last.
    """
    kept = len(model.layers) + 1 - gpu_layers
    away = sum(layer.size for layer in model.layers[kept:])
    if gpu_layers and model.output is not None and not model.tied:
        away += model.output.length
    return Estimate(
        weights=model.size - away + _rearranged(model, holding.features, kept),
        vocabulary=_NAME * model.names,
        kv=sum(kv_bytes(layer, model, holding) for layer in model.layers[:kept]),
        compute=compute_bytes(model, holding),
        outputs=_FLOAT * rows(holding) * (model.vocabulary + (model.width if holding.vectors else 0)),
        adapters=holding.adapters,
    )


def rows(holding: Holding) -> int:
    """Rows of outputs that llama.cpp has room for."""
    return max(holding.sequences, holding.batch if holding.vectors else holding.outputs)


def compute_bytes(model: Shape, holding: Holding) -> int:
    """Buffers of the largest graph, on whatever device computes it."""
    return _FLOAT * _graph(model, holding)


def copied_cells(model: Shape, holding: Holding, left: int) -> int:
    """How many cells may lie as copies in host memory, of which ``left`` bytes are free beside the model.

    As many as the cache has, in at most half of what is left.
    """
    each = sum(kv_bytes(layer, model, holding) for layer in model.layers) / _padded(holding.cells)
    return min(holding.cells, int(max(0, left) / 2 / each)) if each else 0


def kv_bytes(layer: Layer, model: Shape, holding: Holding) -> int:
    """What one layer keeps between batches: keys and values of all its cells, states of all sequences."""
    cells = _cells(model, holding, windowed=layer.windowed)
    layout = _TYPES[holding.kv_type.upper()]
    rows = sum(-(-width // layout.block) * layout.size for width in (layer.key, layer.value))
    return cells * rows + _FLOAT * layer.state * holding.sequences


def _cells(model: Shape, holding: Holding, *, windowed: bool) -> int:
    every = _padded(holding.cells)
    if not windowed or holding.whole_window:
        return every
    return _padded(min(every, model.window * holding.sequences + holding.batch))


def _padded(cells: int) -> int:
    return -(-cells // _PAD) * _PAD


def _graph(model: Shape, holding: Holding) -> int:
    """Floats at the largest moment of the graph. Fitted to llama.cpp's own figures."""
    cells = _padded(holding.cells)
    kinds = {layer.windowed for layer in model.layers} or {False}
    masks = sum(_cells(model, holding, windowed=windowed) for windowed in kinds)
    largest = 0
    for layer in model.layers:
        kept = layer.key + layer.value
        attention = (2 if holding.flash_attention else 3) * model.width + 2 * layer.query + kept
        scores = 0 if holding.flash_attention or not layer.query else model.heads * cells
        largest = max(largest, layer.forward, attention + scores)
    logits = min(holding.batch, rows(holding)) * (model.vocabulary + model.width) if model.projects else 0
    masks = masks // 2 if holding.flash_attention else masks
    return max(holding.batch * largest, logits + holding.batch * model.width) + holding.batch * masks


def _rearranged(model: Shape, features: frozenset[str], kept: int) -> int:
    """Bytes of the second copies of weights, in the order of rows that the CPU's instructions want."""
    if "REPACK" not in features:
        return 0
    multiple = _ARM if {"DOTPROD", "MATMUL_INT8"} & features else _X86 if "AVX2" in features else {}
    if "AVX512" in features:
        multiple = multiple | {"Q2_K": 8}
    return sum(tensor.length for tensor in model.tensors if _multiplied(tensor, model, multiple, kept))


def _multiplied(tensor: Tensor, model: Shape, multiple: dict[str, int], kept: int) -> bool:
    if tensor.name in ("output.weight", "token_embd.weight"):
        here = tensor is model.output and kept > len(model.layers)
    else:
        here = (block_of(tensor) or 0) < kept
    by = multiple.get(tensor.type)
    return here and by is not None and len(tensor.dimensions) > 1 and tensor.dimensions[1] % by == 0
