"""Writes files into a bundle as chunks named by their SHA-256: one read of the source, one write of each new chunk.

A material knows its digest before it is read, because everything that travels is pinned; bytes that turn out to be
others are refused, and the chunks written for them are for the caller to throw away with the directory. Memory: one
block of 1 MiB.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from plugsky_bundles import cut
from plugsky_bundles.atomic import out_of_space
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import MAX_CHUNK, Chunk, FileEntry, blob_path
from plugsky_bundles.gguf import GgufInfo

BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Material:
    """A file that will travel under `path`: its bytes, or where they lie. `gguf` gives a model its cut."""

    path: str
    content: Path | bytes
    length: int
    sha256: str
    gguf: GgufInfo | None = None
    custom: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_bytes(cls, path: str, content: bytes, custom: Mapping[str, Any] | None = None) -> Material:
        return cls(path, content, len(content), hashlib.sha256(content).hexdigest(), None, custom or {})

    @property
    def entry(self) -> FileEntry:
        """What can be said before it is cut; enough for the content id."""
        return FileEntry(self.path, self.length, self.sha256, (), self.custom)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        if isinstance(self.content, bytes):
            yield io.BytesIO(self.content)
        else:
            with self.content.open("rb", buffering=0) as file:
                yield file


class Packer:
    """Writes materials below `root/blobs`; `moved` hears how many bytes are done so far, and of which path."""

    def __init__(self, root: Path, moved: Callable[[int, str], None]) -> None:
        self._root = root
        self._moved = moved
        self._done = 0
        self._item = ""

    def add(self, material: Material) -> FileEntry:
        """Write `material`'s chunks. Raises DigestMismatch when its bytes are not the pinned ones, or NoSpace."""
        self._item = material.path
        with material.open() as file:
            chunked = material.gguf is not None or material.length > MAX_CHUNK
            if not chunked:
                chunk = self._write(file, material.length, None)
                chunks: tuple[Chunk, ...] = ()
                digest = chunk.sha256
            else:
                cuts = cut.chunks_of(material.gguf) if material.gguf else cut.plain_chunks(material.length)
                whole = hashlib.sha256()
                chunks = tuple(self._write(file, length, whole) for _, length in cuts)
                digest = whole.hexdigest()
            longer = bool(file.read(1))
        if longer or digest != material.sha256:
            raise DigestMismatch(
                f"{material.path} is not what the recipe pins",
                f"it pins SHA-256 {material.sha256}, the file has {digest}{' and is longer' if longer else ''}",
                "Correct the recipe or the file; a download is fetched anew, run it again",
            )
        return FileEntry(material.path, material.length, material.sha256, chunks, material.custom)

    def _write(self, file: BinaryIO, length: int, whole: Any) -> Chunk:
        """Copy exactly `length` bytes (fewer only at the end of the file) into a blob named by what they are."""
        part = self._root / "part"
        digest = hashlib.sha256()
        left = length
        with out_of_space(part), part.open("wb", buffering=0) as out:
            while left and (block := file.read(min(BLOCK, left))):
                digest.update(block)
                if whole is not None:
                    whole.update(block)
                view = memoryview(block)
                while view:
                    view = view[out.write(view) :]
                left -= len(block)
                self._done += len(block)
                self._moved(self._done, self._item)
            os.fsync(out.fileno())
        blob = self._root / blob_path(digest.hexdigest())
        blob.parent.mkdir(parents=True, exist_ok=True)
        part.replace(blob)
        return Chunk(digest.hexdigest(), length - left)
