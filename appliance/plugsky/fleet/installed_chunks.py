"""The chunks of installed files, for asking what was revoked: a revocation may name a chunk of a file.

A store keeps a chunk list beside each file that came in chunks (:mod:`plugsky_bundles.store_index`), and the provenance
of a generation names the SHA-256 of that list as it was signed. A list that is not there, or another one, says nothing;
then the answer is unknown, and what cannot be asked is not activated.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import ChunksUnknown, MalformedChunkList, MalformedMetadata, NotFound
from plugsky_bundles.format import MAX_CHUNK, MAX_CHUNK_LIST, FileEntry, decode_chunk_list, encode_chunk_list
from plugsky_bundles.plain_files import read_plain
from plugsky_bundles.store_index import list_path

_MODE = 0o440


def lists_of(entries: Iterable[FileEntry]) -> dict[str, str]:
    """The SHA-256 of the chunk list of each file that has one, by path."""
    return {entry.path: _sha256(encode_chunk_list(entry.chunks)) for entry in entries if entry.chunks}


def keep(store: Path, entries: Iterable[FileEntry]) -> None:
    """See to it that the store has the chunk lists of these files, as they were verified."""
    for entry in entries:
        if entry.chunks and _read(store, entry.sha256) != (data := encode_chunk_list(entry.chunks)):
            write_file(list_path(store, entry.sha256), data, mode=_MODE)


def digests(store: Path, entries: Iterable[FileEntry], lists: Mapping[str, str]) -> dict[str, str]:
    """The path of every chunk of these files by digest; ``lists`` as :func:`lists_of`. Raises ChunksUnknown."""
    found: dict[str, str] = {}
    for entry in entries:
        listed = lists.get(entry.path)
        if listed is None and entry.length <= MAX_CHUNK:
            continue
        data = _read(store, entry.sha256)
        if data is None or listed is None or _sha256(data) != listed:
            raise _unknown(entry.path)
        try:
            found.update((chunk.sha256, entry.path) for chunk in decode_chunk_list(data))
        except MalformedChunkList:
            raise _unknown(entry.path) from None
    return found


def _read(store: Path, digest: str) -> bytes | None:
    try:
        return read_plain(list_path(store, digest), MAX_CHUNK_LIST, "")
    except (NotFound, MalformedMetadata, OSError):
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unknown(path: str) -> ChunksUnknown:
    return ChunksUnknown(
        f"Whether a part of {path} was revoked cannot be told",
        "its chunk list in the store is missing, or is not the one that was signed",
        "Install its bundle again: plugsky bundle install --repair",
    )
