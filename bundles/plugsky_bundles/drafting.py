"""The signed part of a bundle, before anyone signs: entries -> role files; and reading such a draft back.

A draft is a bundle directory whose blobs are there and whose new role files carry no signature yet. New ones have the
version of the bundle, name its channel and expire at the same moment; a role file that is taken over (`role_reuse`)
keeps its own, and waits for nobody. Targets itself lists no files and delegates each role to its own keys and
threshold, and binds all that people sign (`binding`).

The draft of a delta lacks the data blobs that its sites hold, and `metadata/since.json` says what it will leave out.
All its role files and chunk lists lie in it until it is sealed, so that signers see what they sign.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from plugsky_bundles.atomic import write_file
from plugsky_bundles.binding import BINDS, Binds, bind, binds_of
from plugsky_bundles.entries import Absence, chunk_lists, collect_entries
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
    encode_chunk_list,
)
from plugsky_bundles.media import Bundle, missing, open_bundle
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
from plugsky_bundles.since import Since, encode_absent, since_of
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp, whole_seconds

SIGNED_ROLES: Final = ("targets", *ROLES)
DRAFT_SINCE: Final = f"{METADATA}/since.json"
_MAX_SINCE: Final = 4096


@dataclass(frozen=True, slots=True)
class Draft:
    """What a draft holds; `built` and `expires` in UTC; `metadata` by role name, targets first.

    `since` is what a delta will leave out.
    """

    path: Path
    channel: str
    version: int
    content_id: str
    built: str
    expires: datetime
    entries: Mapping[str, FileEntry]
    lists: Mapping[str, Chunk]
    metadata: Mapping[str, Metadata[Targets]]
    binds: Binds
    since: Since | None = None

    @property
    def fresh(self) -> dict[str, Metadata[Targets]]:
        """The role files made for this bundle, which its people sign; the others were taken over, signed."""
        return {role: metadata for role, metadata in self.metadata.items() if metadata.signed.version == self.version}

    def file(self, role: str) -> str:
        """The path of a role file in the bundle."""
        return f"{METADATA}/{self.metadata[role].signed.version}.{role}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What the custody log calls it."""
        return {"channel": self.channel, "version": self.version, "content_id": self.content_id}


@dataclass(frozen=True, slots=True)
class Base:
    """What a delta builds on: the bundle that its sites have accepted, and the SHA-256 of the receipt that says so.

    `roles`: the role files that they keep and the delta takes over; `held`: digests of the chunks and whole files that
    they hold, those of `roles` included; `lists`: digests of the chunk lists that they keep.
    """

    bundle_id: str
    receipt: str | None
    roles: tuple[str, ...]
    held: frozenset[str] = field(repr=False)
    lists: frozenset[str] = field(repr=False)

    def lacks(self, entry: FileEntry) -> tuple[Chunk, ...]:
        """The blobs of a file that the media must bring."""
        if entry.role in self.roles:
            return ()
        return tuple(blob for blob in entry.blobs if blob.sha256 not in self.held)


def write_draft(
    bundle_dir: Path,
    entries: Iterable[FileEntry],
    *,
    channel: str,
    version: int,
    root: bytes,
    now: datetime,
    expires: datetime,
    taken_over: Mapping[str, bytes] | None = None,
    base: Base | None = None,
) -> Draft:
    """Write the chunk lists and the role files into `bundle_dir`, whose data blobs must be there.

    So must be what lies beside them (`install.sh`, `evidence/`, …): targets binds it as it is now.

    `taken_over`: role files to use as they are (`role_reuse.taken_over`), whose entries have the chunks that they had.
    With a `base` it becomes a delta: then exactly those blobs must be there that it does not leave out.
    Raises UnsafeName or MalformedMetadata for entries that do not fit the format, BlobMissing for a blob that is not
    there with its size, ExistsError when the directory has metadata already.
    """
    entries, taken_over = list(entries), taken_over or {}
    check_channel(channel)
    check_version(version)
    check_target_paths(entry.path for entry in entries)
    for entry in entries:
        check_entry(entry)
        for blob in entry.blobs if base is None else base.lacks(entry):
            _check_there(bundle_dir, blob, entry.path)
    metadata_dir = bundle_dir / METADATA
    if metadata_dir.exists() and any(metadata_dir.iterdir()):
        raise ExistsError(f"{bundle_dir} has metadata already", "a draft is written once", "Choose another directory")
    root_signed = read_metadata(root, Root, "The root").signed
    check_root(root_signed, "The root")

    targets = {entry.path: _target(bundle_dir, entry) for entry in entries}
    common = {CHANNEL: channel, BUILT: stamp(now)}
    until = whole_seconds(expires)
    metadata: dict[str, Metadata[Targets]] = {}
    for role in ROLES:
        mine = {path: target for path, target in targets.items() if path.split("/", 1)[0] == role}
        if role in taken_over:
            metadata[role] = read_metadata(taken_over[role], Targets, f"The {role} metadata sealed before")
            _check_same(metadata[role].signed, mine)
        else:
            metadata[role] = Metadata(Targets(version, None, until, mine, None, dict(common)))
    metadata_dir.mkdir(parents=True, exist_ok=True)
    write_file(metadata_dir / f"{root_signed.version}.root.json", root)
    binds = bind(entries, metadata, open_bundle(bundle_dir))
    fields = {**common, FORMAT_FIELD: FORMAT, BINDS: binds.to_dict()}
    top = Targets(version, None, until, {}, _delegations(root_signed), fields)
    metadata = {"targets": Metadata(top), **metadata}
    for role, unsigned in metadata.items():
        data = taken_over.get(role) or serialise(unsigned)
        if len(data) > MAX_TARGETS_METADATA:
            raise malformed(f"The metadata of {role}", f"it has {len(data)} bytes, the limit is {MAX_TARGETS_METADATA}")
        write_file(metadata_dir / f"{unsigned.signed.version}.{role}.json", data)
    lists = {path: Chunk(**t.custom["chunks"]) for path, t in targets.items() if t.custom and "chunks" in t.custom}
    by_path = {entry.path: entry for entry in entries}
    since = None if base is None else _write_since(bundle_dir, base, by_path, lists)
    return Draft(
        bundle_dir, channel, version, binds.content_id, stamp(now), top.expires, by_path, lists, metadata, binds, since
    )


def read_draft(bundle: Bundle, root: Root) -> Draft:
    """Read a draft, signed or not, and check all but signatures, so that nobody signs what a site would refuse.

    Raises KeyUnusable for one that waits for the keys of another root than ``root``, and the VerificationError of what
    is wrong otherwise; so it does for a sealed delta, from which metadata was taken out.
    """
    version = _version(bundle)
    name = f"{METADATA}/{version}.targets.json"
    since = draft_since(bundle)
    metadata: dict[str, Metadata[Targets]] = {}
    channel: str | None = None
    for role in SIGNED_ROLES:
        what = name if role == "targets" else _role_file(bundle, role, version)
        metadata[role] = read_metadata(bundle.read(what, limit=MAX_TARGETS_METADATA), Targets, what)
        signed = metadata[role].signed
        if f"{METADATA}/{signed.version}.{role}.json" != what:
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
    binds = binds_of(top.unrecognized_fields.get(BINDS), name)
    for role in ROLES:
        binds.check_role(role, metadata[role], f"{METADATA}/{metadata[role].signed.version}.{role}.json")
    binds.check_files(bundle)
    entries, lists = collect_entries({role: metadata[role].signed for role in ROLES}, chunk_lists(bundle, Absence()))
    built = stamp(parse_stamp(top.unrecognized_fields.get(BUILT), name))
    binds.check_content(entries.values())
    return Draft(
        bundle.path,
        str(channel),
        version,
        binds.content_id,
        built,
        top.expires,
        entries,
        lists,
        metadata,
        binds,
        since,
    )


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


def _role_file(bundle: Bundle, role: str, version: int) -> str:
    """The path of the one file that a draft has of a role: of this version, or taken over from an older one."""
    prefix, suffix = f"{METADATA}/", f".{role}.json"
    names = [name for name in bundle.files if name.startswith(prefix) and name.endswith(suffix)]
    if not names:
        raise missing(f"{prefix}{version}{suffix}")
    number = names[0].removeprefix(prefix).removesuffix(suffix)
    if len(names) > 1 or not re.fullmatch(r"[1-9][0-9]{0,9}", number, re.ASCII) or int(number) > version:
        raise malformed(f"{bundle.path}", f"it must have one {role} file, not newer than {version}")
    return names[0]


def _write_since(bundle_dir: Path, base: Base, entries: Mapping[str, FileEntry], lists: Mapping[str, Chunk]) -> Since:
    """Note what sealing is to leave out, and write the list of absent blobs."""
    files = {blob.sha256 for entry in entries.values() if entry.role not in base.roles for blob in entry.blobs}
    named = {blob.sha256 for path, blob in lists.items() if entries[path].role not in base.roles}
    blob = None
    if absent := (files & base.held) | (named & base.lists):
        data = encode_absent(absent)
        blob = Chunk(hashlib.sha256(data).hexdigest(), len(data))
        _write_blob(bundle_dir, blob.sha256, data)
    since = Since(base.bundle_id, base.receipt, tuple(sorted(base.roles)), blob)
    write_file(bundle_dir / DRAFT_SINCE, encode(since.to_dict()))
    return since


def draft_since(bundle: Bundle) -> Since | None:
    """What a draft of a delta will leave out; None for a full one. Raises MalformedMetadata."""
    if DRAFT_SINCE not in bundle.files:
        return None
    data = bundle.read(DRAFT_SINCE, limit=_MAX_SINCE)
    members = parse_object(data, DRAFT_SINCE, limit=_MAX_SINCE)
    if not is_canonical(data, members):
        raise malformed(DRAFT_SINCE, "it is not written in its canonical form")
    return since_of(members, DRAFT_SINCE)


def _check_same(signed: Targets, mine: Mapping[str, TargetFile]) -> None:
    if {path: target.to_dict() for path, target in signed.targets.items()} != {p: t.to_dict() for p, t in mine.items()}:
        msg = "a role file can be taken over only for the files that it lists"
        raise ValueError(msg)


def _write_blob(bundle_dir: Path, digest: str, data: bytes) -> None:
    path = bundle_dir / blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)


def _target(bundle_dir: Path, entry: FileEntry) -> TargetFile:
    custom = {key: value for key, value in entry.custom.items() if key != "chunks"}
    if entry.chunks:
        data = encode_chunk_list(entry.chunks)
        digest = hashlib.sha256(data).hexdigest()
        _write_blob(bundle_dir, digest, data)
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
