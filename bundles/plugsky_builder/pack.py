"""Writes files into a bundle as chunks named by their SHA-256: one read of the source, one write of each new chunk.

A material knows its digest before it is read, because everything that travels is pinned; bytes that turn out to be
others are refused, and the chunks written for them are for the caller to throw away with the directory. Reading,
hashing and writing overlap (`lanes`).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugsky_builder.lanes import Blob, Lanes
from plugsky_bundles import cut
from plugsky_bundles.atomic import out_of_space
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import MAX_CHUNK, Chunk, FileEntry, blob_path
from plugsky_bundles.gguf import GgufInfo
from plugsky_bundles.pipeline import Reader
from plugsky_bundles.uncached import FileReader, FileWriter


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
    def open(self) -> Iterator[io.FileIO | io.BytesIO]:
        if isinstance(self.content, bytes):
            yield io.BytesIO(self.content)
        else:
            with self.content.open("rb", buffering=0) as file:
                yield file

    @contextmanager
    def part(self, offset: int, length: int) -> Iterator[Reader]:
        """Reads `length` bytes from `offset` on, around the page cache where that is possible."""
        with self.open() as file:
            if isinstance(file, io.BytesIO):
                file.seek(offset)
                yield file
            else:
                yield FileReader(file.fileno(), length, offset)

    @property
    def is_longer(self) -> bool:
        """Whether the file has grown since its length was taken."""
        return isinstance(self.content, Path) and self.content.stat().st_size > self.length


class Packer:
    """Writes materials below `root/blobs`; `moved` hears how many bytes are done so far, and of which path.

    What it wrote is on disk only when the caller has put its file system there (`linux_calls.sync_file_system`).
    """

    def __init__(self, root: Path, moved: Callable[[int, str], None]) -> None:
        self._root = root
        self._moved = moved
        self._done = 0
        self._item = ""
        self._blobs = 0

    def add(self, material: Material, before: FileEntry | None = None) -> FileEntry:
        """Write `material`'s chunks, cut as they were in `before` if it has one.

        Raises DigestMismatch when its bytes are not the pinned ones, or NoSpace.
        """
        return self._go_through(material, before, self._blob)

    def survey(self, material: Material, before: FileEntry | None = None) -> FileEntry:
        """What `add` would return, from one read and without writing anything."""
        return self._go_through(material, before, lambda _: None)

    def add_missing(self, material: Material, entry: FileEntry, held: Collection[str]) -> None:
        """Of `material`, surveyed as `entry`, write the chunks that are not `held`."""
        self._item = material.path
        offset = 0
        with out_of_space(self._root):
            for blob in entry.blobs:
                if blob.sha256 not in held:
                    with material.part(offset, blob.length) as file, Lanes(file, blob.length, self._move) as lanes:
                        if lanes.take(blob.length, None, self._blob(blob.length)).result() != blob:
                            raise _changed(material)
                offset += blob.length

    def _go_through(
        self, material: Material, before: FileEntry | None, blob: Callable[[int], Blob | None]
    ) -> FileEntry:
        self._item = material.path
        lengths = _cuts(material, before)
        known = before.chunks if before is not None and before.sha256 == material.sha256 else ()
        length = material.length
        with out_of_space(self._root), material.part(0, length) as file, Lanes(file, length, self._move) as lanes:
            whole = hashlib.sha256() if lengths and not known else None
            taken = [lanes.take(cut, whole, blob(cut)) for cut in lengths or [length]]
            chunks = tuple(chunk.result() for chunk in taken)
            lanes.settle()
        longer = material.is_longer
        if known:  # the same chunks in the same order are the same file, without hashing it a second time
            right, found = chunks == known, "other chunks than it had when it was sealed"
        else:
            digest = chunks[0].sha256 if whole is None else whole.hexdigest()
            right, found = digest == material.sha256, f"SHA-256 {digest}"
        if longer or not right:
            raise DigestMismatch(
                f"{material.path} is not what the recipe pins",
                f"it pins SHA-256 {material.sha256}, the file has {found}{' and is longer' if longer else ''}",
                "Correct the recipe or the file; a download is fetched anew, run it again",
            )
        return FileEntry(material.path, material.length, material.sha256, chunks if lengths else (), material.custom)

    def _blob(self, length: int) -> Blob:
        self._blobs += 1
        return _Blob(self._root, self._root / f"part-{self._blobs}", length)

    def _move(self, count: int) -> None:
        self._done += count
        self._moved(self._done, self._item)


class _Blob:
    """A blob that is being written, around the page cache where that is possible."""

    def __init__(self, root: Path, part: Path, length: int) -> None:
        self._root, self._part = root, part
        self._descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._writer = FileWriter(part, self._descriptor, length)

    def write(self, view: memoryview, at: int, /) -> None:
        self._writer.write(view, at)

    def finish(self, chunk: Chunk, /) -> None:
        self._writer.flush()
        self.abandon()
        place = self._root / blob_path(chunk.sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        self._part.replace(place)

    def abandon(self) -> None:
        """Let go of the file; what is in it is for the caller to throw away."""
        if self._descriptor >= 0:
            self._writer.__exit__(None, None, None)
            os.close(self._descriptor)
            self._descriptor = -1


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
