"""The signed part of a bundle, before anyone signs: entries -> role files; and reading such a draft back.

A draft is a bundle directory whose blobs are there and whose role files carry no signature yet. Every role file has
the version of the bundle, names its channel and expires at the same moment; targets itself lists no files and delegates
each role to its own keys and threshold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from plugsky_bundles.atomic import write_file
from plugsky_bundles.entries import collect_entries
from plugsky_bundles.errors import BlobMissing, ExistsError, KeyUnusable, MetadataMissing
from plugsky_bundles.format import (
    CUSTODY,
    MAX_TARGETS_METADATA,
    METADATA,
    ROLES,
    Chunk,
    FileEntry,
    blob_path,
    check_channel,
    check_entry,
    check_target_paths,
    check_version,
    content_id,
    encode_chunk_list,
)
from plugsky_bundles.media import Bundle
from plugsky_bundles.metadata import (
    BUILT,
    CHANNEL,
    FORMAT,
    FORMAT_FIELD,
    check_common,
    check_delegations,
    check_root,
    read_metadata,
    role_patterns,
    serialise,
)
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import parse_stamp, stamp, whole_seconds

SIGNED_ROLES: Final = ("targets", *ROLES)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a draft holds; `built` and `expires` in UTC; `metadata` by role name, targets first."""

    path: Path
    channel: str
    version: int
    content_id: str
    built: str
    expires: datetime
    entries: Mapping[str, FileEntry]
    lists: Mapping[str, Chunk]
    metadata: Mapping[str, Metadata[Targets]]

    @property
    def identity(self) -> dict[str, Any]:
        """What the custody log calls it."""
        return {"channel": self.channel, "version": self.version, "content_id": self.content_id}


def write_draft(
    bundle_dir: Path,
    entries: Iterable[FileEntry],
    *,
    channel: str,
    version: int,
    root: bytes,
    now: datetime,
    expires: datetime,
) -> Draft:
    """Write the chunk lists and the unsigned role files into `bundle_dir`, whose data blobs must be there.

    Raises UnsafeName or MalformedMetadata for entries that do not fit the format, BlobMissing for a blob that is not
    there with its size, ExistsError when the directory has metadata already.
    """
    entries = list(entries)
    check_channel(channel)
    check_version(version)
    check_target_paths(entry.path for entry in entries)
    for entry in entries:
        check_entry(entry)
        for blob in entry.blobs:
            _check_there(bundle_dir, blob, entry.path)
    metadata_dir = bundle_dir / METADATA
    if metadata_dir.exists() and any(metadata_dir.iterdir()):
        raise ExistsError(f"{bundle_dir} has metadata already", "a draft is written once", "Choose another directory")
    root_signed = read_metadata(root, Root, "The root").signed
    check_root(root_signed, "The root")

    targets = {entry.path: _target(bundle_dir, entry) for entry in entries}
    common = {CHANNEL: channel, BUILT: stamp(now)}
    metadata: dict[str, Metadata[Targets]] = {}
    for role in ROLES:
        mine = {path: target for path, target in targets.items() if path.split("/", 1)[0] == role}
        metadata[role] = Metadata(Targets(version, None, whole_seconds(expires), mine, None, dict(common)))
    top = Targets(
        version,
        None,
        whole_seconds(expires),
        {},
        _delegations(root_signed),
        {**common, FORMAT_FIELD: FORMAT},
    )
    metadata = {"targets": Metadata(top), **metadata}
    metadata_dir.mkdir(parents=True, exist_ok=True)
    write_file(metadata_dir / f"{root_signed.version}.root.json", root)
    for role, unsigned in metadata.items():
        data = serialise(unsigned)
        if len(data) > MAX_TARGETS_METADATA:
            raise malformed(f"The metadata of {role}", f"it has {len(data)} bytes, the limit is {MAX_TARGETS_METADATA}")
        write_file(metadata_dir / f"{version}.{role}.json", data)
    lists = {path: Chunk(**t.custom["chunks"]) for path, t in targets.items() if t.custom and "chunks" in t.custom}
    by_path = {entry.path: entry for entry in entries}
    identity = content_id(entries)
    return Draft(bundle_dir, channel, version, identity, stamp(now), top.expires, by_path, lists, metadata)


def read_draft(bundle: Bundle, root: Root) -> Draft:
    """Read a draft, signed or not, and check all but signatures, so that nobody signs what a site would refuse.

    Raises KeyUnusable for one that waits for the keys of another root than ``root``, and the VerificationError of what
    is wrong otherwise.
    """
    version = _version(bundle)
    name = f"{METADATA}/{version}.targets.json"
    metadata: dict[str, Metadata[Targets]] = {}
    channel: str | None = None
    for role in SIGNED_ROLES:
        what = f"{METADATA}/{version}.{role}.json"
        metadata[role] = read_metadata(bundle.read(what, limit=MAX_TARGETS_METADATA), Targets, what)
        signed = metadata[role].signed
        if signed.version != version:
            raise malformed(what, f"it says that it is version {signed.version}")
        channel = check_common(signed, channel, what)
    top = metadata["targets"].signed
    wanted = set() if top.delegations is None else set(top.delegations.keys)
    if wanted and wanted.isdisjoint(root.roles["targets"].keyids):
        raise KeyUnusable(
            f"{bundle.path} was built with another trust directory",
            "its releases are to be signed by other keys than those of this one",
            "Name the trust directory that it was built with, by --trust, or build it again",
        )
    check_delegations(root, top, name)
    entries, lists = collect_entries(bundle, {role: metadata[role].signed for role in ROLES})
    built = stamp(parse_stamp(top.unrecognized_fields.get(BUILT), name))
    identity = content_id(entries.values())
    return Draft(bundle.path, str(channel), version, identity, built, top.expires, entries, lists, metadata)


def sweep(bundle_dir: Path) -> None:
    """Remove what an interrupted write left in a bundle: half-written files under their temporary names."""
    for directory in (bundle_dir / METADATA, (bundle_dir / CUSTODY).parent):
        for part in directory.glob(".*.part"):
            part.unlink()


def _version(bundle: Bundle) -> int:
    prefix, suffix = f"{METADATA}/", ".targets.json"
    names = [name for name in bundle.files if name.startswith(prefix) and name.endswith(suffix)]
    if not names:
        raise MetadataMissing(f"{bundle.path} is not a draft", "it has no targets metadata", "Build it again")
    number = names[0].removeprefix(prefix).removesuffix(suffix)
    if len(names) > 1 or not re.fullmatch(r"[1-9][0-9]{0,9}", number, re.ASCII):
        raise malformed(f"{bundle.path}", f"it must have exactly one targets file, not {', '.join(sorted(names))}")
    return check_version(int(number))


def _target(bundle_dir: Path, entry: FileEntry) -> TargetFile:
    custom = {key: value for key, value in entry.custom.items() if key != "chunks"}
    if entry.chunks:
        data = encode_chunk_list(entry.chunks)
        digest = hashlib.sha256(data).hexdigest()
        path = bundle_dir / blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
        custom["chunks"] = {"length": len(data), "sha256": digest}
    fields = {"custom": custom} if custom else {}
    return TargetFile(entry.length, {"sha256": entry.sha256}, entry.path, fields)


def _delegations(root: Root) -> Delegations:
    own = root.roles["targets"]
    roles = {name: DelegatedRole(name, list(own.keyids), own.threshold, True, role_patterns(name)) for name in ROLES}
    return Delegations({keyid: root.keys[keyid] for keyid in own.keyids}, roles)


def _check_there(bundle_dir: Path, blob: Chunk, path: str) -> None:
    name = blob_path(blob.sha256)
    file = bundle_dir / name
    if not file.is_file() or file.stat().st_size != blob.length:
        raise BlobMissing(f"{name} is not there", f"{path} needs it, with {blob.length} bytes", "Build it again")
