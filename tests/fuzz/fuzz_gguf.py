"""Fuzzes the GGUF reader and the cut rule: any bytes are refused by name, or give facts that lie inside the file.

`python -m fuzz.fuzz_gguf [libFuzzer flags] CORPUS`
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from fuzz.harness import instrumented, run

with instrumented():
    from plugsky_bundles import cut, gguf
    from plugsky_bundles.errors import GgufError
    from plugsky_bundles.gguf_header import MAX_HEADER, WINDOW

from bundles.gguf_forge import ARRAY, BOOL, F64, I8, STRING, U16, U32, U64, Forge


class Metered(io.BytesIO):
    """A file that notices when more of it is read at once, or together, than the reader promises."""

    total = 0

    def read(self, count: int | None = -1, /) -> bytes:
        assert count is not None
        assert 0 <= count <= WINDOW
        part = super().read(count)
        self.total += len(part)
        assert self.total <= MAX_HEADER
        return part


def one_input(data: bytes) -> None:
    info = gguf.read(Metered(data), len(data))
    assert 0 <= info.header_length <= len(data)
    for tensor in info.tensors:
        assert info.data_offset <= tensor.offset <= tensor.offset + tensor.length <= len(data)
    at = 0
    for offset, length in cut.chunks_of(info):
        assert offset == at
        assert length > 0
        at += length
    assert at == len(data)


def seeds() -> Iterator[bytes]:
    yield Forge().build()
    yield Forge(version=2, tensors=[], padded_end=False).build()
    yield Forge(alignment=64).with_key("general.alignment", U32, 64).build()
    yield (
        Forge()
        .with_key("split.no", U16, 0)
        .with_key("split.count", U16, 2)
        .with_key("split.tensors.count", U16, 3)
        .build()
    )
    yield (
        Forge()
        .with_key("a", BOOL, 1)
        .with_key("b", F64, 0.5)
        .with_key("c", U64, 1 << 40)
        .with_key("d", ARRAY, (I8, [1, 2, 3]))
        .with_key("tokenizer.chat_template.tool", STRING, "{{ tools }}")
        .build()
    )
    for number in (1, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1):
        yield b"GGUF" + struct.pack("<IQQ", 3, number, 1)
        yield b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, number)


if __name__ == "__main__":
    run(one_input, (GgufError,), seeds())
