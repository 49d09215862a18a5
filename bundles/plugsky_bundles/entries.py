"""The files of a bundle from its role files and chunk lists, and the exact set that must lie on the media.

Names are checked across all roles together; a role lists only what is under its own prefix; a chunk list is a blob
named by signed metadata, so reading it here is reading metadata. No other blob is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from tuf.api.metadata import Targets

from plugsky_bundles.errors import DigestMismatch, UnlistedFile
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
from plugsky_bundles.media import Bundle, missing
from plugsky_bundles.metadata import Listed, file_entry
from plugsky_bundles.strict_json import malformed

_RECOPY: Final = "Copy the bundle again from its source"


def collect_entries(bundle: Bundle, roles: Mapping[str, Targets]) -> tuple[dict[str, FileEntry], dict[str, Chunk]]:
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
            if (chunk_list := _chunk_list(entry.custom, path)) is not None:
                lists[path] = chunk_list
                entry = replace(entry, chunks=decode_chunk_list(read_blob(bundle, chunk_list)))
            check_entry(entry)
            entries[path] = entry
    return entries, lists


def read_blob(bundle: Bundle, blob: Chunk) -> bytes:
    """The bytes of a small blob, compared with its digest."""
    name = blob_path(blob.sha256)
    data = bundle.read(name, limit=blob.length)
    if len(data) != blob.length or hashlib.sha256(data).hexdigest() != blob.sha256:
        raise DigestMismatch(f"{name} was changed", "its bytes do not give the digest in its name", _RECOPY)
    return data


def check_exact_set(
    bundle: Bundle, metadata: Iterable[str], blobs: Iterable[Chunk], evidence: Mapping[str, Listed]
) -> None:
    """Every listed file is there with its size, and nothing else is. `metadata`: paths of files already read."""
    expected = {name: listed.length for name, listed in evidence.items()}
    for blob in blobs:
        name = blob_path(blob.sha256)
        if expected.setdefault(name, blob.length) != blob.length:
            raise malformed(name, "two files list it with different lengths")
    for name, length in expected.items():
        if name not in bundle.files:
            raise missing(name)
        if bundle.files[name] != length:
            raise DigestMismatch(
                f"{name} has the wrong size", f"{bundle.files[name]} bytes instead of {length}", _RECOPY
            )
    names = {*expected, *metadata}
    for name in bundle.files.keys() - names:
        raise UnlistedFile(f"{name} does not belong in the bundle", "no signed list names it", _RECOPY)
    parents = {name[:cut] for name in names for cut, char in enumerate(name) if char == "/"}
    for name in bundle.directories - parents:
        raise UnlistedFile(f"{name} does not belong in the bundle", "it is an empty directory", _RECOPY)


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
