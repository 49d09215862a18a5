"""Where a file is cut into chunks, so that a small change of a file changes few chunks. Pure.

The cut rule for a GGUF (`chunks_of`):
* a metadata value of 256 KiB or more is its own chunk (a vocabulary rarely changes; what surrounds it may);
* each stretch of header between those, and the last one with the padding before the tensors, is one chunk;
* tensors are put together in file order until they reach 8 MiB; a tensor of 8 MiB or more starts its own chunk at its
  own first byte, so that equal tensors give equal chunks in two files whatever their neighbours are;
* nothing is longer than 64 MiB: what is gets cut at multiples of 64 MiB from its own start.
Any other file is cut at multiples of 64 MiB (`plain_chunks`).

The result always covers the file exactly, in order, without empty chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from plugsky_bundles.format import MAX_CHUNK, MIB
from plugsky_bundles.gguf import GgufInfo

COALESCE: Final = 8 * MIB

Cut = tuple[int, int]
"""Offset and length in bytes."""


def plain_chunks(size: int) -> list[Cut]:
    """The chunks of a file of which nothing is known; none for an empty file."""
    return list(_limited([(0, size)]))


def chunks_of(info: GgufInfo) -> list[Cut]:
    """The chunks of the GGUF that `info` describes."""
    return list(_limited(_header(info))) + list(_limited(_tensors(info)))


def _header(info: GgufInfo) -> Iterator[Cut]:
    at = 0
    for value in info.big_values:
        yield at, value.offset - at
        yield value.offset, value.length
        at = value.offset + value.length
    yield at, min(info.data_offset, info.size) - at


def _tensors(info: GgufInfo) -> Iterator[Cut]:
    """Stretches of the tensor data, each tensor together with the padding behind it."""
    starts = [tensor.offset for tensor in info.tensors]
    ends = [*starts[1:], info.size]
    group = info.data_offset
    for tensor, end in zip(info.tensors, ends, strict=False):
        if tensor.length >= COALESCE:
            yield group, tensor.offset - group
            yield tensor.offset, end - tensor.offset
            group = end
        elif end - group >= COALESCE:
            yield group, end - group
            group = end
    yield group, info.size - group


def _limited(cuts: Iterable[Cut]) -> Iterator[Cut]:
    for offset, length in cuts:
        for start in range(offset, offset + length, MAX_CHUNK):
            yield start, min(MAX_CHUNK, offset + length - start)
