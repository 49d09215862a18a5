"""Reads what a GGUF file says about itself, and refuses any file that llama.cpp should never map.

`read` looks at the header only (at most 64 MiB, see `gguf_header`) and guarantees, in this order:
1. magic, little-endian, version 2 or 3; counts within `MAX_KEYS` and `MAX_TENSORS`;
2. every key is printable, unique and has a value of a known type that lies inside the file; no nested arrays;
3. values that llama.cpp trusts have the type that it reads them as, and the tokenizer's arrays have one length;
4. the alignment is a power of two from 8 to 64 KiB;
5. every tensor has a unique name, 1 to 4 dimensions, a known type whose blocks fill its rows, and no product of
   dimensions overflows 63 bits;
6. tensors follow each other in file order without gap or overlap and end inside the file, and nothing but padding
   follows the last one.
Source: the GGUF specification (ggml, docs/gguf.md); the rules of llama.cpp's own `gguf_init_from_file`, and the ways
in which readers were broken (CVE-2025-53630, CVE-2026-27940, CVE-2026-7482).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import BinaryIO, Final

from plugsky_bundles.gguf_header import ArrayShape, Cursor, Scalar, TooLongToKeep, Value, refuse
from plugsky_bundles.gguf_types import FILE_TYPES, TENSOR_TYPES, ValueType

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_KEYS: Final = 1 << 16
MAX_TENSORS: Final = 1 << 16
MAX_KEY: Final = 256
MAX_TENSOR_NAME: Final = 63
MAX_DIMENSIONS: Final = 4
DEFAULT_ALIGNMENT: Final = 32
BIG_VALUE: Final = 256 * 1024

_ARRAYS: Final = {
    "tokenizer.ggml.tokens": ValueType.STRING,
    "tokenizer.ggml.scores": ValueType.FLOAT32,
    "tokenizer.ggml.token_type": ValueType.INT32,
    "tokenizer.ggml.merges": ValueType.STRING,
}
_SCALARS: Final = {
    "general.type": ValueType.STRING,
    "adapter.type": ValueType.STRING,
    "adapter.lora.alpha": ValueType.FLOAT32,
}
_PER_TOKEN: Final = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_TEMPLATE: Final = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes of the file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor by name; `offset` counts from the start of the file, `length` is without padding."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Split:
    """This file is part `number` (from 0) of `count` files, which hold `tensors` tensors together."""

    number: int
    count: int
    tensors: int


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """What the header says. `big_values` are the metadata values of 256 KiB or more, in file order.

    `architecture` is empty in the later parts of a split model, whose first part holds the metadata.
    """

    version: int
    size: int
    alignment: int
    header_length: int
    data_offset: int
    metadata: Mapping[str, Scalar]
    arrays: Mapping[str, ArrayShape]
    big_values: tuple[Span, ...]
    tensors: tuple[Tensor, ...]
    architecture: str
    name: str
    quantisation: str
    parameters: int
    context_length: int | None
    embedding_length: int | None
    pooling: int | None
    tokenizer: str | None
    vocabulary: int
    chat_template: str | None
    templates: Mapping[str, str]
    split: Split | None


def read(file: BinaryIO, size: int) -> GgufInfo:
    """The facts of the GGUF in `file` (at its beginning, `size` bytes long), or `GgufError` saying what is wrong."""
    cursor = Cursor(file, size)
    if size < 24:
        raise refuse(f"{size} bytes are too few")
    if (magic := cursor.bytes(4, "the magic")) != MAGIC:
        raise refuse(f"it begins with {magic!r}, not {MAGIC!r}")
    version = cursor.u32("the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise refuse("it is big-endian" if swapped else f"its version is {version}, supported are 2 and 3")
    tensor_count = cursor.u64("the number of tensors")
    key_count = cursor.u64("the number of keys")
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise refuse(f"it announces {key_count} keys and {tensor_count} tensors, the limits are {MAX_KEYS} each")

    values, big_values = _read_values(cursor, key_count)
    alignment = _alignment(values)
    layouts = [_read_tensor(cursor) for _ in range(tensor_count)]
    header_length = cursor.offset
    data_offset = _padded(header_length, alignment) if tensor_count else header_length
    tensors = _place(layouts, data_offset, alignment, size)
    _check_arrays(values)

    metadata = {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
    arrays = {key: value for key, value in values.items() if isinstance(value, ArrayShape)}
    split = _split(values)
    architecture = _string(values, "general.architecture") or ""
    if not architecture and (split is None or split.number == 0):
        raise refuse("it does not name its architecture (general.architecture)")
    templates = {
        key.removeprefix(_TEMPLATE).lstrip("."): value
        for key, value in metadata.items()
        if (key == _TEMPLATE or key.startswith(_TEMPLATE + ".")) and isinstance(value, str)
    }
    return GgufInfo(
        version=version,
        size=size,
        alignment=alignment,
        header_length=header_length,
        data_offset=data_offset,
        metadata=MappingProxyType(metadata),
        arrays=MappingProxyType(arrays),
        big_values=big_values,
        tensors=tensors,
        architecture=architecture,
        name=_string(values, "general.name") or "",
        quantisation=_quantisation(values, tensors),
        parameters=sum(math.prod(tensor.dimensions) for tensor in tensors),
        context_length=_count(values, f"{architecture}.context_length"),
        embedding_length=_count(values, f"{architecture}.embedding_length"),
        pooling=_count(values, f"{architecture}.pooling_type"),
        tokenizer=_string(values, "tokenizer.ggml.model"),
        vocabulary=arrays["tokenizer.ggml.tokens"].count if "tokenizer.ggml.tokens" in arrays else 0,
        chat_template=_string(values, _TEMPLATE),
        templates=MappingProxyType(templates),
        split=split,
    )


def _read_values(cursor: Cursor, count: int) -> tuple[dict[str, Value], tuple[Span, ...]]:
    values: dict[str, Value] = {}
    big: list[Span] = []
    for _ in range(count):
        key = cursor.name(MAX_KEY, "a key")
        if key in values:
            raise refuse(f"the key {key!r} occurs twice")
        kind = cursor.kind(key)
        if kind is not (trusted := _SCALARS.get(key, kind)):
            raise refuse(f"{key!r} is not of type {trusted.name.lower()}")
        start = cursor.offset
        values[key] = cursor.value(kind, key)
        if (length := cursor.offset - start) >= BIG_VALUE:
            big.append(Span(start, length))
    return values, tuple(big)


def _alignment(values: Mapping[str, Value]) -> int:
    alignment = _count(values, "general.alignment")
    if alignment is None:
        return DEFAULT_ALIGNMENT
    if not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise refuse(f"its alignment is {alignment}, not a power of two from 8 to 65536")
    return alignment


def _read_tensor(cursor: Cursor) -> Tensor:
    """A tensor's entry as written: its offset still counts from the start of the tensor data."""
    name = cursor.name(MAX_TENSOR_NAME, "a tensor's name")
    rank = cursor.u32(name)
    if not 1 <= rank <= MAX_DIMENSIONS:
        raise refuse(f"the tensor {name!r} has {rank} dimensions, allowed are 1 to {MAX_DIMENSIONS}")
    dimensions = tuple(cursor.u64(name) for _ in range(rank))
    if min(dimensions) < 1 or math.prod(dimensions) >= 1 << 63:
        raise refuse(f"the tensor {name!r} has the impossible dimensions {dimensions}")
    tag = cursor.u32(name)
    if tag not in TENSOR_TYPES:
        raise refuse(f"the tensor {name!r} has the unknown type {tag}")
    layout = TENSOR_TYPES[tag]
    if dimensions[0] % layout.block:
        raise refuse(
            f"a row of the tensor {name!r} has {dimensions[0]} elements, not a multiple of {layout.name}'s"
            f" {layout.block}"
        )
    length = math.prod(dimensions) // layout.block * layout.size
    return Tensor(name, layout.name, dimensions, cursor.u64(name), length)


def _place(layouts: list[Tensor], data_offset: int, alignment: int, size: int) -> tuple[Tensor, ...]:
    """The tensors with their place in the file, which must be exactly one after the other."""
    names: set[str] = set()
    placed: list[Tensor] = []
    expected = end = 0
    for tensor in layouts:
        if tensor.name in names:
            raise refuse(f"the tensor {tensor.name!r} occurs twice")
        names.add(tensor.name)
        if tensor.offset != expected:
            fault = "overlaps the one before it" if tensor.offset < expected else "leaves a gap before it"
            raise refuse(f"the tensor {tensor.name!r} at {tensor.offset} {fault} (expected at {expected})")
        end = tensor.offset + tensor.length
        expected = _padded(end, alignment)
        if data_offset + end > size:
            raise refuse(f"the tensor {tensor.name!r} ends at byte {data_offset + end}, the file at {size}")
        placed.append(Tensor(tensor.name, tensor.type, tensor.dimensions, data_offset + tensor.offset, tensor.length))
    if size > _padded(data_offset + end, alignment):
        raise refuse(f"{size - data_offset - end} bytes follow the last tensor")
    return tuple(placed)


def _padded(offset: int, alignment: int) -> int:
    return offset + -offset % alignment


def _check_arrays(values: Mapping[str, Value]) -> None:
    for key, element in _ARRAYS.items():
        value = values.get(key)
        if value is not None and (not isinstance(value, ArrayShape) or value.element is not element):
            raise refuse(f"{key!r} is not an array of {element.name.lower()}")
    tokens = values.get("tokenizer.ggml.tokens")
    for key in _PER_TOKEN:
        value = values.get(key)
        if isinstance(value, ArrayShape) and (not isinstance(tokens, ArrayShape) or value.count != tokens.count):
            raise refuse(f"{key!r} has {value.count} entries, which is not the number of tokens")


def _string(values: Mapping[str, Value], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        length = f" of {value.length} bytes" if isinstance(value, TooLongToKeep) else ""
        raise refuse(f"{key!r} is not a short string but a {type(value).__name__}{length}")
    return value


def _count(values: Mapping[str, Value], key: str) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise refuse(f"{key!r} is {value!r}, not a count")
    return value


def _quantisation(values: Mapping[str, Value], tensors: tuple[Tensor, ...]) -> str:
    """The file type by its usual name, else the tensor type that holds most bytes."""
    declared = _count(values, "general.file_type")
    if declared is not None and declared in FILE_TYPES:
        return FILE_TYPES[declared]
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type] += tensor.length
    return weights.most_common(1)[0][0] if weights else "none"


def _split(values: Mapping[str, Value]) -> Split | None:
    count = _count(values, "split.count")
    number = _count(values, "split.no") or 0
    if count is None or count <= 1:
        return None
    if number >= count:
        raise refuse(f"it is part {number} of a split of {count}")
    return Split(number, count, _count(values, "split.tensors.count") or 0)
