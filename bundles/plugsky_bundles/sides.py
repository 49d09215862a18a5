"""One side of a comparison: what a bundle on media or a site holds, and the small parts of it that are worth reading.

Nothing is read but what the other side does not have in the same form: small files whole, and of a model its header,
chunk by chunk until the header ends. Every blob is compared with its digest; one that is not at hand (a delta leaves it
out, and no store has it) is None, and whoever compares says so.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

from plugsky_bundles import gguf, store_index
from plugsky_bundles.entries import read_blob
from plugsky_bundles.format import MIB, Chunk, FileEntry, blob_path, content_id
from plugsky_bundles.gguf_header import MAX_HEADER
from plugsky_bundles.kept import Kept
from plugsky_bundles.media import Bundle
from plugsky_bundles.verified import VerifiedBundle

MAX_SMALL: Final = MIB
BlobReader = Callable[[Chunk], bytes | None]
"""Gives the bytes of a blob, compared with its digest; None where it is not at hand."""


@dataclass(frozen=True, slots=True)
class Side:
    """`entries` by path; `name` is what people see of it: where it lies."""

    name: str
    channel: str
    version: int
    bundle_id: str
    content_id: str
    entries: Mapping[str, FileEntry] = field(repr=False)
    blob: BlobReader = field(repr=False)

    def small(self, path: str) -> bytes | None:
        """The bytes of a file of at most 1 MiB; None when it is longer, not there or not at hand."""
        entry = self.entries.get(path)
        if entry is None or entry.length > MAX_SMALL:
            return None
        parts = [self.blob(chunk) for chunk in entry.blobs]
        return None if None in parts else b"".join(part for part in parts if part is not None)

    def templates(self, path: str) -> Mapping[str, str] | None:
        """The chat templates in the header of a model file by name; None when the header is not at hand.

        Raises GgufError for a file that is not a well-formed GGUF.
        """
        entry = self.entries[path]
        header = _Header(self.blob, entry)
        try:
            return gguf.read(cast("BinaryIO", header), entry.length).templates
        except _NotAtHandError:
            return None


def of_bundle(verified: VerifiedBundle, *others: BlobReader) -> Side:
    """A verified bundle; blobs that it leaves out are asked of `others`."""

    def blob(chunk: Chunk) -> bytes | None:
        if chunk.sha256 not in verified.absent:
            return read_blob(verified.bundle, chunk)
        found = (other(chunk) for other in others)
        return next((data for data in found if data is not None), None)

    name = f"{verified.bundle.path}"
    ids = (verified.channel, verified.version, verified.bundle_id, verified.content_id)
    return Side(name, *ids, verified.entries, blob)


def of_site(kept: Kept, store: Path, name: str) -> Side:
    """What a site accepted last of a channel, with the files in its store."""
    wanted = {blob.sha256 for entry in kept.entries.values() for blob in entry.blobs}
    ids = (kept.channel, kept.version, kept.bundle_id, content_id(kept.entries.values()))
    return Side(name, *ids, kept.entries, in_store(store, wanted))


def in_store(store: Path, wanted: Collection[str]) -> BlobReader:
    """The `wanted` blobs, by digest, as files of a store hold them, whole or as chunks."""
    places: dict[str, store_index.Place] = {}
    looked = False

    def blob(chunk: Chunk) -> bytes | None:
        nonlocal looked
        if not looked:
            places.update(store_index.site_blobs(store, wanted))
            looked = True
        place = places.get(chunk.sha256)
        if place is None or place.length != chunk.length:
            return None
        with place.path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
        return data if hashlib.sha256(data).hexdigest() == chunk.sha256 else None

    return blob


def on_media(bundle: Bundle) -> BlobReader:
    """Blobs as they lie in another bundle, which need not be trusted."""

    def blob(chunk: Chunk) -> bytes | None:
        return read_blob(bundle, chunk) if blob_path(chunk.sha256) in bundle.files else None

    return blob


class _NotAtHandError(Exception):
    """A blob of a header that nobody has."""


class _Header:
    """Reads a model file from its beginning, one chunk after the other, and gives no more than the chunk in hand."""

    def __init__(self, blob: BlobReader, entry: FileEntry) -> None:
        self._blob = blob
        self._chunks = iter(entry.blobs)
        self._part = io.BytesIO()
        self._left = 2 * MAX_HEADER

    def read(self, count: int, /) -> bytes:
        while not (data := self._part.read(count)):
            chunk = next(self._chunks, None)
            if chunk is None or chunk.length > self._left:
                return b""
            self._left -= chunk.length
            whole = self._blob(chunk)
            if whole is None:
                raise _NotAtHandError
            self._part = io.BytesIO(whole)
        return data
