"""The newest bundle of a channel, read back from the copies that a site or a trust directory keeps of its metadata.

The copies are named by their digests, from the bundle id downwards (see `trusted_copies`), so what is read back is what
was verified when it was kept; signatures and dates are not judged again here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.metadata import Metadata, Snapshot, Targets

from plugsky_bundles.entries import collect_entries
from plugsky_bundles.format import MAX_SNAPSHOT, MAX_TARGETS_METADATA, ROLES, Chunk, FileEntry
from plugsky_bundles.metadata import Listed, check_common, listed, read_metadata
from plugsky_bundles.since import base_missing
from plugsky_bundles.trusted_copies import CopiesIn


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a bundle; `files` and `roles` by role name: the bytes, and what they say. `copies` has them."""

    bundle_id: str
    channel: str
    version: int
    files: Mapping[str, bytes] = field(repr=False)
    listed: Mapping[str, Listed] = field(repr=False)
    roles: Mapping[str, Metadata[Targets]] = field(repr=False)
    entries: Mapping[str, FileEntry] = field(repr=False)
    lists: Mapping[str, Chunk] = field(repr=False)
    copies: CopiesIn = field(repr=False)


def read_kept(directory: Path, bundle_id: str) -> Kept:
    """Read back the bundle with that id. Raises BaseMissing for a copy that is not there, whole and unchanged."""
    copies = CopiesIn(directory)
    snapshot_bytes = copies.find(bundle_id, MAX_SNAPSHOT)
    if snapshot_bytes is None:
        raise base_missing(f"The snapshot of bundle {bundle_id}", None)
    what = f"The copy of the snapshot in {directory}"
    snapshot = read_metadata(snapshot_bytes, Snapshot, what).signed
    files: dict[str, bytes] = {}
    named: dict[str, Listed] = {}
    roles: dict[str, Metadata[Targets]] = {}
    for role in ("targets", *ROLES):
        named[role] = file = listed(snapshot.meta[f"{role}.json"], what)
        data = copies.read(file.sha256, file.length) if file.length <= MAX_TARGETS_METADATA else None
        if data is None:
            raise base_missing(f"The {role} metadata of bundle {bundle_id}", None)
        files[role] = data
        roles[role] = read_metadata(data, Targets, f"The copy of {role} in {directory}")

    def chunk_list(entry: FileEntry, blob: Chunk) -> bytes:
        data = copies.read(blob.sha256, blob.length)
        if data is None:
            raise base_missing(f"The chunk list of {entry.path}", None)
        return data

    entries, lists = collect_entries({role: roles[role].signed for role in ROLES}, chunk_list)
    channel = check_common(snapshot, None, what)
    version = roles["targets"].signed.version
    return Kept(bundle_id, channel, version, files, named, roles, entries, lists, copies)
