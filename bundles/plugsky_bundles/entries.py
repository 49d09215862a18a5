"""The files of a bundle from its role files and chunk lists, and what of them a delta leaves out.

Names are checked across all roles together; a role lists only what is under its own prefix; a chunk list is a blob
named by signed metadata, so reading it here is reading metadata. No other blob is opened.

What lies on the media are the blobs of the roles whose files lie there, without those on the list of absent blobs. That
list names nothing else: neither what no role lists nor what only a role does whose file is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tuf.api.metadata import Targets

from plugsky_bundles.errors import RECOPY, DigestMismatch
from plugsky_bundles.format import (
    MAX_CHUNK_LIST,
    ROLES,
    Chunk,
    FileEntry,
    blob_path,
    check_entry,
    check_target_paths,
    decode_chunk_list,
    is_sha256,
)
from plugsky_bundles.media import Bundle
from plugsky_bundles.metadata import file_entry
from plugsky_bundles.since import Since, base_missing, decode_absent
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.trusted_copies import NO_COPIES, TrustedCopies


@dataclass(frozen=True, slots=True)
class Absence:
    """What a delta leaves out: roles whose files are not on the media, digests of blobs that are not, and for whom."""

    since: Since | None = None
    listed: frozenset[str] = frozenset()
    copies: TrustedCopies = field(default=NO_COPIES)

    @property
    def roles(self) -> frozenset[str]:
        return frozenset() if self.since is None else frozenset(self.since.roles)

    @property
    def blob(self) -> tuple[Chunk, ...]:
        """The blob on the media that holds the list, if there is one."""
        return () if self.since is None or self.since.absent is None else (self.since.absent,)

    def holds(self, blob: Chunk, role: str) -> bool:
        """Whether a blob of `role` is one that this leaves out; another role may still need it on the media."""
        return role in self.roles or blob.sha256 in self.listed

    def copy(self, blob: Chunk, what: str) -> bytes:
        """A blob that is left out and needed for verification, as it was accepted before. Raises BaseMissing."""
        data = self.copies.read(blob.sha256, blob.length)
        if data is None:
            raise base_missing(what, self.since)
        return data


def absence(bundle: Bundle, since: Since | None, copies: TrustedCopies) -> Absence:
    """Read the list of absent blobs that a verified snapshot names."""
    if since is None or since.absent is None:
        return Absence(since, frozenset(), copies)
    return Absence(since, decode_absent(read_blob(bundle, since.absent)), copies)


ChunkListReader = Callable[[FileEntry, Chunk], bytes]
"""Gives the bytes of the chunk list of a file, which must be those that its blob's digest and length say."""


def chunk_lists(bundle: Bundle, left_out: Absence) -> ChunkListReader:
    """Reads chunk lists from the media, and those that a delta leaves out from copies."""

    def read(entry: FileEntry, blob: Chunk) -> bytes:
        if left_out.holds(blob, entry.role):
            return left_out.copy(blob, f"The chunk list of {entry.path}")
        return read_blob(bundle, blob)

    return read


def collect_entries(
    roles: Mapping[str, Targets], chunk_list: ChunkListReader
) -> tuple[dict[str, FileEntry], dict[str, Chunk]]:
    """Every file by path, and the chunk lists by the path of their file. `roles` holds each delegated role."""
    entries: dict[str, FileEntry] = {}
    lists: dict[str, Chunk] = {}
    check_target_paths(path for role in ROLES for path in roles[role].targets)
    for role in ROLES:
        what = f"metadata/{roles[role].version}.{role}.json"
        for path, target in roles[role].targets.items():
            entry = file_entry(target, what)
            if entry.role != role:
                raise malformed(what, f"it lists {path!r}, which is not its own")
            if (blob := _chunk_list(entry.custom, path)) is not None:
                lists[path] = blob
                entry = replace(entry, chunks=decode_chunk_list(chunk_list(entry, blob)))
            check_entry(entry)
            entries[path] = entry
    return entries, lists


def absent_blobs(entries: Mapping[str, FileEntry], lists: Mapping[str, Chunk], left_out: Absence) -> frozenset[str]:
    """The digests of the blobs (chunks and chunk lists) that these files need and the media does not hold.

    Raises MalformedMetadata for a list of absent blobs that names anything but blobs of roles on the media.
    """
    if left_out.since is None:
        return frozenset()
    here: set[str] = set()
    elsewhere: set[str] = set()
    known: set[str] = set()
    for path, entry in entries.items():
        for blob in (*entry.blobs, *((lists[path],) if path in lists else ())):
            if entry.role not in left_out.roles:
                known.add(blob.sha256)
            (elsewhere if left_out.holds(blob, entry.role) else here).add(blob.sha256)
    for digest in sorted(left_out.listed - known):
        raise malformed("The list of absent blobs", f"it names {digest}, which no role on the media lists")
    return frozenset(elsewhere - here)


def read_blob(bundle: Bundle, blob: Chunk) -> bytes:
    """The bytes of a small blob, compared with its digest."""
    name = blob_path(blob.sha256)
    data = bundle.read(name, limit=blob.length)
    if len(data) != blob.length or hashlib.sha256(data).hexdigest() != blob.sha256:
        raise DigestMismatch(f"{name} was changed", "its bytes do not give the digest in its name", RECOPY)
    return data


def _chunk_list(custom: Mapping[str, Any], path: str) -> Chunk | None:
    """The blob that holds the chunk list of a target, if it names one."""
    if "chunks" not in custom:
        return None
    named = custom["chunks"]
    if (
        not isinstance(named, dict)
        or set(named) != {"length", "sha256"}
        or not is_sha256(named["sha256"])
        or type(named["length"]) is not int
        or not 0 < named["length"] <= MAX_CHUNK_LIST
    ):
        raise malformed(f"The entry of {path!r}", "it does not name its chunk list by length and sha256")
    return Chunk(named["sha256"], named["length"])
