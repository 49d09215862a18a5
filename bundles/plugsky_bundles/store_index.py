"""What a site's store holds, as whole files and as the chunks inside them.

A stored file is `sha256-<hex>`, named by what it is. Beside each one that came in chunks lies its chunk list,
`sha256-<hex>.chunks`, in the format of `format.encode_chunk_list`: so a later bundle, or a repair, finds every chunk
that the site holds without reading a model.

The lists are only a hint of where to look. Whoever takes bytes by them compares the bytes with what was signed; a list
that is damaged, or that does not add up to its file, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_bundles.errors import MalformedChunkList
from plugsky_bundles.format import MAX_CHUNK_LIST, Chunk, decode_chunk_list

STORED: Final = re.compile(r"sha256-([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a blob lie on the site."""

    path: Path
    offset: int
    length: int


def stored_path(store: Path, digest: str) -> Path:
    """The file of that SHA-256."""
    return store / f"sha256-{digest}"


def list_path(store: Path, digest: str) -> Path:
    """The chunk list of the file of that SHA-256."""
    return store / f"sha256-{digest}.chunks"


def held(directory: Path) -> dict[str, int]:
    """The digests of the whole files in a store or a staging directory, with their lengths; nothing is read."""
    return {digest: path.lstat().st_size for digest, path in _files(directory)}


def site_blobs(store: Path, wanted: Collection[str]) -> dict[str, Place]:
    """Of the `wanted` digests, those that the store should hold, as a whole file or as a chunk of one, and where."""
    found: dict[str, Place] = {}
    for digest, length in held(store).items():
        path = stored_path(store, digest)
        if digest in wanted:
            found[digest] = Place(path, 0, length)
        offset = 0
        for chunk in chunks_of(store, digest, length):
            if chunk.sha256 in wanted:
                found.setdefault(chunk.sha256, Place(path, offset, chunk.length))
            offset += chunk.length
    return found


def chunks_of(store: Path, digest: str, length: int) -> tuple[Chunk, ...]:
    """The chunks of a stored file of `length` bytes; none when it has no list, or one that does not fit."""
    with suppress(OSError, MalformedChunkList):
        with list_path(store, digest).open("rb") as file:
            chunks = decode_chunk_list(file.read(MAX_CHUNK_LIST + 1))
        if sum(chunk.length for chunk in chunks) == length:
            return chunks
    return ()


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    if directory.is_dir():
        for path in directory.iterdir():
            if (match := STORED.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
                yield match[1], path
