"""Writes files into a bundle as chunks named by their SHA-256: one read of the source, one write of each new chunk.

A material knows its digest before it is read, because everything that travels is pinned; bytes that turn out to be
others are refused, and the chunks written for them are for the caller to throw away with the directory. Memory: one
block of 1 MiB.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
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

    def add(self, material: Material, before: FileEntry | None = None) -> FileEntry:
        """Write `material`'s chunks, cut as they were in `before` if it has one.

        Raises DigestMismatch when its bytes are not the pinned ones, or NoSpace.
        """
        return self._go_through(material, before, self._write)

    def survey(self, material: Material, before: FileEntry | None = None) -> FileEntry:
        """What `add` would return, from one read and without writing anything."""
        return self._go_through(material, before, self._hash)

    def add_missing(self, material: Material, entry: FileEntry, held: Collection[str]) -> None:
        """Of `material`, surveyed as `entry`, write the chunks that are not `held`."""
        self._item = material.path
        offset = 0
        with material.open() as file:
            for blob in entry.blobs:
                if blob.sha256 not in held:
                    file.seek(offset)
                    if self._write(file, blob.length, None) != blob:
                        raise _changed(material)
                offset += blob.length

    def _go_through(
        self, material: Material, before: FileEntry | None, take: Callable[[BinaryIO, int, Any], Chunk]
    ) -> FileEntry:
        self._item = material.path
        with material.open() as file:
            lengths = _cuts(material, before)
            if not lengths:
                chunks: tuple[Chunk, ...] = ()
                digest = take(file, material.length, None).sha256
            else:
                whole = hashlib.sha256()
                chunks = tuple(take(file, length, whole) for length in lengths)
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
        with out_of_space(part), part.open("wb", buffering=0) as out:
            chunk = self._read(file, length, whole, out)
            os.fsync(out.fileno())
        blob = self._root / blob_path(chunk.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        part.replace(blob)
        return chunk

    def _hash(self, file: BinaryIO, length: int, whole: Any) -> Chunk:
        return self._read(file, length, whole, None)

    def _read(self, file: BinaryIO, length: int, whole: Any, out: io.FileIO | None) -> Chunk:
        digest = hashlib.sha256()
        left = length
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            if whole is not None:
                whole.update(block)
            view = memoryview(block)
            while out is not None and view:
                view = view[out.write(view) :]
            left -= len(block)
            self._done += len(block)
            self._moved(self._done, self._item)
        return Chunk(digest.hexdigest(), length - left)


def _cuts(material: Material, before: FileEntry | None) -> list[int]:
    """The lengths of the chunks of a material; none where the file is its own single blob."""
    if before is not None:
        return [chunk.length for chunk in before.chunks]
    if material.gguf is not None:
        return [length for _, length in cut.chunks_of(material.gguf)]
    if material.length > MAX_CHUNK:
        return [length for _, length in cut.plain_chunks(material.length)]
    return []


def _changed(material: Material) -> DigestMismatch:
    return DigestMismatch(f"{material.path} changed while it was read", "two reads differ", "Run it again")
