"""The sizes of a model that its memory follows from: layer by layer, from the header of its GGUF. Pure.

Widths come from the tensors, which llama.cpp checks against the metadata, and from the metadata only where tensors are
fused; so models whose layers differ need no table of architectures. What only llama.cpp's code knows (which layers of
an architecture see a window only, which architectures keep no cache) is in the tables below.
Source: llama.cpp's llama-hparams.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp and models/*.cpp.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from plugsky_bundles.gguf import GgufInfo, Tensor

_WINDOWED: Final = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "mellum": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
"""Architectures of which one layer in so many sees everything, the first of each or the last."""
_CACHELESS: Final = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert"}
    | {"gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1"}
)
_GEMMA3N_OWN_CACHE: Final = 20
_BLOCK: Final = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_RECURRENT: Final = ("ssm_conv1d", "shortconv.conv", "time_mix_key", "time_mix_output")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer; widths in elements. ``state`` counts what a sequence keeps in a recurrent one, in 32-bit floats."""

    query: int
    key: int
    value: int
    forward: int
    """Elements that its feed-forward network holds at once, for one token."""
    state: int
    windowed: bool
    size: int
    """Bytes of its weights in the file."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes. ``window`` counts the tokens that a windowed layer sees; ``heads`` the most that a layer has."""

    layers: tuple[Layer, ...]
    width: int
    heads: int
    vocabulary: int
    projects: bool
    """Whether its graph ends in logits; an encoder's does not."""
    names: int
    """Entries of the tokenizer's tables that llama.cpp keeps in memory of its own."""
    window: int
    size: int
    tensors: tuple[Tensor, ...]

    @property
    def output(self) -> Tensor | None:
        """The output matrix."""
        named = {tensor.name: tensor for tensor in self.tensors}
        return named.get("output.weight", named.get("token_embd.weight"))

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding of the input too."""
        return self.output is not None and self.output.name == "token_embd.weight"


def block_of(tensor: Tensor) -> int | None:
    """The number of the layer that ``tensor`` belongs to, if it belongs to one."""
    match = _BLOCK.fullmatch(tensor.name)
    return int(match[1]) if match else None


def shape(headers: Sequence[GgufInfo]) -> Shape:
    """The shape of the model whose parts have these ``headers``; of a model in one file there is one."""
    first = headers[0]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    facts = _Facts(first.architecture, first.metadata)
    blocks: dict[int, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for tensor in tensors:
        if match := _BLOCK.fullmatch(tensor.name):
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            rest[tensor.name] = tensor
    embedding = rest.get("token_embd.weight")
    output = rest.get("output.weight", embedding)
    width = facts.number("embedding_length") or (embedding.dimensions[0] if embedding else 0)
    keeps = first.architecture not in _CACHELESS and facts.of("attention.causal") is not False
    own = _own_caches(facts, len(blocks)) if keeps else 0
    layers = tuple(_layer(n, blocks[n], facts, width, keeps=n < own) for n in sorted(blocks))
    tables = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    return Shape(
        layers=layers,
        width=width,
        heads=facts.number("attention.head_count") or max((layer.query // 64 for layer in layers), default=0) or 1,
        vocabulary=first.vocabulary or (output.dimensions[-1] if output is not None else 0),
        projects=keeps,
        names=sum(first.arrays[table].count for table in tables if table in first.arrays),
        window=facts.number("attention.sliding_window"),
        size=sum(tensor.length for tensor in tensors),
        tensors=tensors,
    )


class _Facts:
    """The metadata that an architecture keeps under its own name."""

    def __init__(self, architecture: str, metadata: Mapping[str, bool | int | float | str]) -> None:
        self.architecture = architecture
        self._metadata = metadata

    def of(self, key: str) -> bool | int | float | str | None:
        return self._metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """A count; 0 where the key is absent or is a list with a number for each layer."""
        value = self.of(key)
        return value if isinstance(value, int) else 0


def _own_caches(facts: _Facts, layers: int) -> int:
    """The number of layers, from the first, that keep keys and values of their own; later ones use those."""
    if facts.architecture == "gemma3n":
        return _GEMMA3N_OWN_CACHE
    return layers - facts.number("attention.shared_kv_layers")


def _layer(number: int, block: Mapping[str, Tensor], facts: _Facts, width: int, *, keeps: bool) -> Layer:
    query, key, value = _attention(block, facts, width)
    return Layer(
        query=query,
        key=key if keeps else 0,
        value=value if keeps else 0,
        forward=_forward(block, facts, width),
        state=_state(facts, width) if any(name in block for name in _RECURRENT) else 0,
        windowed=_windowed(number, facts),
        size=sum(tensor.length for tensor in block.values()),
    )


def _attention(block: Mapping[str, Tensor], facts: _Facts, width: int) -> tuple[int, int, int]:
    """The widths of queries, keys and values as they are cached."""
    heads = facts.number("attention.head_count")
    if "attn_kv_a_mqa" in block and facts.number("attention.key_length_mla"):
        return heads * facts.number("attention.key_length_mla"), block["attn_kv_a_mqa"].dimensions[-1], 0
    if "attn_k" in block:
        key = block["attn_k"].dimensions[-1]
        value = block["attn_v"].dimensions[-1] if "attn_v" in block else key
        return (block["attn_q"].dimensions[-1] if "attn_q" in block else width), key, value
    if "attn_qkv" in block or "attn_kv_b" in block:
        head = width // max(heads, 1)
        few = facts.number("attention.head_count_kv") or heads
        key, value = (facts.number(f"attention.{what}_length") or head for what in ("key", "value"))
        return heads * key, few * key, few * value
    return 0, 0, 0


def _forward(block: Mapping[str, Tensor], facts: _Facts, width: int) -> int:
    """What llama.cpp's graph holds at once, measured with its allocator: gate, up and their product, and copies."""
    elements = 0
    if "ffn_up" in block:
        up = block["ffn_up"].dimensions[-1]
        elements = 3 * up + 4 * width if "ffn_gate" in block else up + 3 * width
    for name in ("ffn_up_exps", "ffn_gate_up_exps"):
        if name in block:
            used = facts.number("expert_used_count") or 1
            elements = max(elements, used * (3 * block[name].dimensions[1] + width) + 2 * width)
    return elements


def _state(facts: _Facts, width: int) -> int:
    if size := facts.number("wkv.head_size"):
        return width * size + (facts.number("token_shift_count") or 2) * width
    if kept := facts.number("shortconv.l_cache"):
        return width * (kept - 1)
    inner, state = facts.number("ssm.inner_size"), facts.number("ssm.state_size")
    convolved = inner + 2 * facts.number("ssm.group_count") * state
    return max(facts.number("ssm.conv_kernel") - 1, 0) * convolved + state * inner


def _windowed(number: int, facts: _Facts) -> bool:
    """Whether a layer sees a window only. A pattern written as a list is not read: its layers count as seeing all."""
    known = _WINDOWED.get(facts.architecture)
    if known is None or not facts.number("attention.sliding_window"):
        return False
    usual, dense_first = known
    pattern = facts.number("attention.sliding_window_pattern") or usual
    return number % pattern != 0 if dense_first else number % pattern < pattern - 1
