"""A maker of small GGUF files, right and wrong ones. It writes what it is told and checks nothing."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_LAYOUT = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
F32_TENSOR, F16_TENSOR, Q4_0_TENSOR = 0, 1, 2


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    """The bytes of a value: a number, a string, or for ARRAY a pair (element kind, list)."""
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        element, items = content
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack("<" + _LAYOUT[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    return string(key) + struct.pack("<I", kind) + value(kind, content)


def tensor_entry(name: str | bytes, dimensions: Iterable[int], kind: int, offset: int) -> bytes:
    dims = list(dimensions)
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


TOKENS = [f"token{number}" for number in range(8)]


@dataclass
class Forge:
    """A valid small model unless a part is replaced; `tensors` are (name, dimensions, kind, data length)."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: list[tuple[str | bytes, int, Any]] = field(
        default_factory=lambda: [
            ("general.architecture", STRING, "llama"),
            ("general.name", STRING, "Tiny"),
            ("general.file_type", U32, 0),
            ("llama.context_length", U32, 128),
            ("llama.embedding_length", U32, 8),
            ("tokenizer.ggml.model", STRING, "gpt2"),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, TOKENS)),
            ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * len(TOKENS))),
            ("tokenizer.chat_template", STRING, "{{ messages[0].content }}"),
        ]
    )
    tensors: list[tuple[str, tuple[int, ...], int, int]] = field(
        default_factory=lambda: [
            ("token_embd.weight", (8, 8), F32_TENSOR, 256),
            ("output_norm.weight", (5,), F32_TENSOR, 20),
            ("output.weight", (8, 8), F16_TENSOR, 128),
        ]
    )
    alignment: int = 32
    offsets: list[int] | None = None
    key_count: int | None = None
    tensor_count: int | None = None
    extra: bytes = b""
    padded_end: bool = True

    def with_key(self, key: str | bytes, kind: int, content: Any) -> "Forge":
        self.keys = [item for item in self.keys if item[0] != key] + [(key, kind, content)]
        return self

    def header(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        keys = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, keys)
        head += b"".join(pair(*item) for item in self.keys)
        at = 0
        for number, (name, dimensions, kind, length) in enumerate(self.tensors):
            head += tensor_entry(name, dimensions, kind, self.offsets[number] if self.offsets else at)
            at += length + -length % self.alignment
        return head

    def build(self) -> bytes:
        data = self.header()
        for number, (_, _, _, length) in enumerate(self.tensors):
            data += bytes(-len(data) % self.alignment) + bytes([number + 1]) * length
        if self.padded_end:
            data += bytes(-len(data) % self.alignment)
        return data + self.extra
