"""Splits a GGUF file as llama.cpp's own tool does: the first part has the metadata, the others only their place."""

import struct
from pathlib import Path

from bundles.gguf_forge import I32, U16, pair, tensor_entry
from plugsky_bundles import gguf
from plugsky_bundles.gguf import GgufInfo, Tensor
from plugsky_bundles.gguf_types import TENSOR_TYPES

_TAGS = {layout.name: tag for tag, layout in TENSOR_TYPES.items()}


def split(model: Path, folder: Path, stem: str, count: int) -> list[Path]:
    """`count` parts of about equally many tensors in `folder`, under the names by which llama.cpp finds them."""
    with model.open("rb") as file:
        info = gguf.read(file, model.stat().st_size)
        file.seek(0)
        head = file.read(info.header_length)
        groups = [
            info.tensors[len(info.tensors) * n // count : len(info.tensors) * (n + 1) // count] for n in range(count)
        ]
        paths = []
        for number, tensors in enumerate(groups):
            path = folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf"
            keys = _keys(head, info) if number == 0 else (0, b"")
            path.write_bytes(_part(file, info, keys, tensors, number, count))
            paths.append(path)
    return paths


def _keys(head: bytes, info: GgufInfo) -> tuple[int, bytes]:
    """How many metadata pairs there are, and their bytes: what lies between the counts and the tensors' entries."""
    entries = sum(len(tensor_entry(tensor.name, tensor.dimensions, 0, 0)) for tensor in info.tensors)
    return struct.unpack_from("<Q", head, 16)[0], head[24 : len(head) - entries]


def _part(file, info: GgufInfo, keys: tuple[int, bytes], tensors: tuple[Tensor, ...], number: int, count: int) -> bytes:
    own = pair("split.no", U16, number) + pair("split.count", U16, count)
    own += pair("split.tensors.count", I32, len(info.tensors))
    data = b"GGUF" + struct.pack("<IQQ", info.version, len(tensors), keys[0] + 3) + keys[1] + own
    at = 0
    for tensor in tensors:
        data += tensor_entry(tensor.name, tensor.dimensions, _TAGS[tensor.type], at)
        at += tensor.length + -tensor.length % info.alignment
    for tensor in tensors:
        data += bytes(-len(data) % info.alignment)
        file.seek(tensor.offset)
        data += file.read(tensor.length)
    return data + bytes(-len(data) % info.alignment)
