"""Makes one GGUF file of the parts of a split model: what `llama-gguf-split --split` did, undone.

The result has the metadata of the first part without the three `split.` keys, in their order, and all tensors in the
order of the parts. It is the file that was split, byte for byte, if that was laid out as the format asks. Written
forward, in one go, without a seek; the parts are read once, and memory is one block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from plugsky_bundles.gguf import DEFAULT_ALIGNMENT, MAGIC, MAX_KEY, GgufInfo, Span
from plugsky_bundles.gguf_header import Cursor, refuse
from plugsky_bundles.gguf_types import TENSOR_TYPES

BLOCK: Final = 1024 * 1024
SPLIT_KEYS: Final = frozenset({"split.no", "split.count", "split.tensors.count"})
_TAGS: Final = {layout.name: tag for tag, layout in TENSOR_TYPES.items()}
_HEAD: Final = struct.Struct("<4sIQQ")


def joined(parts: Sequence[tuple[BinaryIO, GgufInfo]]) -> Iterator[bytes]:
    """The bytes of the joined file. `parts` are all those of one model, in order (`split_model.check_set`).

    Each file is at its beginning, and `gguf.read` gave its facts. Raises GgufError when a file changed since.
    """
    first, info = parts[0]
    alignment = info.alignment or DEFAULT_ALIGNMENT
    count, spans = _kept_keys(first, info)
    tensors = [(file, tensor) for file, part in parts for tensor in part.tensors]
    head = [_HEAD.pack(MAGIC, info.version, len(tensors), count)]
    head += [_exactly(first, span.offset, span.length) for span in spans]
    place = 0
    for _, tensor in tensors:
        name, rank = tensor.name.encode(), len(tensor.dimensions)
        head.append(struct.pack("<Q", len(name)) + name)
        head.append(struct.pack(f"<I{rank}QIQ", rank, *tensor.dimensions, _TAGS[tensor.type], place))
        place += tensor.length + -tensor.length % alignment
    data = b"".join(head)
    yield data + bytes(-len(data) % alignment)
    for file, tensor in tensors:
        yield from _blocks(file, tensor.offset, tensor.length)
        yield bytes(-tensor.length % alignment)


def _kept_keys(file: BinaryIO, info: GgufInfo) -> tuple[int, list[Span]]:
    """How many keys stay, and where they lie in the first part, its neighbours taken together."""
    cursor = Cursor(file, info.size)
    cursor.skip(_HEAD.size - 8, "the head")
    kept, spans = 0, list[Span]()
    for _ in range(cursor.u64("the number of keys")):
        start = cursor.offset
        key = cursor.name(MAX_KEY, "a key")
        cursor.value(cursor.kind(key), key)
        if key in SPLIT_KEYS:
            continue
        kept += 1
        if spans and spans[-1].offset + spans[-1].length == start:
            start = spans.pop().offset
        spans.append(Span(start, cursor.offset - start))
    return kept, spans


def _exactly(file: BinaryIO, offset: int, length: int) -> bytes:
    return b"".join(_blocks(file, offset, length))


def _blocks(file: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    file.seek(offset)
    left = length
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise refuse(f"it ends at byte {offset + length - left}, earlier than it said")
        left -= len(block)
        yield block
