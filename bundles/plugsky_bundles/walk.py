"""From an anchor to every role file of a bundle: the TUF client workflow (specification 1.0.31, section 5), offline.

No file is opened here: bytes come from a `Reader`. In order:

1. the chain of roots on the media has no gap, and is bounded in number and bytes; the anchor (a site's state, or a
   fingerprint) is one of them, or the one right before the first of them: until that is known, by their digests alone,
   none of them is looked into;
2. each root is signed by its own keys and by those of the one before; floors that the newest root makes void are
   forgotten (section 5.3.11);
3. timestamp: signed, not older than the floor; it names the snapshot by length and SHA-256;
4. snapshot: those bytes, signed, no role dropped, none older than its floor; it names every role file the same way;
5. targets: those bytes, signed, and delegating to the same keys and threshold; what it binds (`binding`): the snapshot
   lists the files that people signed with it; then each delegated role, the one that it binds; a role file that a delta
   leaves out comes from trusted copies, by the same length and SHA-256;
6. all of one channel; nothing past its date at the newest time that can be proved; no other file in `metadata/`.

The newest time is the latest of the clock, the site's state and the timestamp itself; a timestamp more than two days
beyond the other two is refused, because accepting it would make every right bundle after it expire.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeVar

from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp

from plugsky_bundles.binding import BINDS, NOTHING, Binds, binds_of
from plugsky_bundles.errors import (
    RECOPY,
    DigestMismatch,
    MetadataExpired,
    NotSealed,
    SealedInFuture,
    UnlistedFile,
)
from plugsky_bundles.format import (
    MAX_SNAPSHOT,
    MAX_TARGETS_METADATA,
    MAX_TIMESTAMP,
    ROLES,
    check_version,
)
from plugsky_bundles.metadata import (
    EVIDENCE,
    ROLE_FILES,
    TIME,
    Listed,
    check_common,
    check_delegations,
    count_signatures,
    evidence_of,
    listed,
    read_metadata,
)
from plugsky_bundles.root_chain import Anchor, Reader, fingerprint, read_roots
from plugsky_bundles.since import SINCE, Since, base_missing, since_of
from plugsky_bundles.state import EPOCH, Floor, TrustState
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import parse_stamp, stamp, whole_seconds
from plugsky_bundles.trusted_copies import NO_COPIES, TrustedCopies

__all__ = ["CLOCKS_APART", "Anchor", "Reader", "Walk", "expired", "fingerprint", "walk"]

CLOCKS_APART: Final = timedelta(days=2)
"""How far the build machine's clock may be ahead; a time once accepted is kept, and outlives every later expiry."""
S = TypeVar("S", Snapshot, Targets)


@dataclass(slots=True)
class Walk:
    """What the walk found; each step fills its part.

    `roots` are the fingerprints that lead to the root that counts; `files` the bytes of snapshot, targets and roles.
    """

    reader: Reader
    copies: TrustedCopies
    root: Root
    root_bytes: bytes
    time: datetime
    channel: str = ""
    bundle_id: str = ""
    sealed_at: datetime = EPOCH
    versions: dict[str, int] = field(default_factory=dict)
    signers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    roles: dict[str, Targets] = field(default_factory=dict)
    evidence: dict[str, Listed] = field(default_factory=dict)
    dated: dict[str, Signed] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    checks: list[str] = field(default_factory=list)
    roots: frozenset[str] = frozenset()
    since: Since | None = None
    binds: Binds = NOTHING
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def expires(self) -> datetime:
        return min(signed.expires for signed in self.dated.values())

    @property
    def floor(self) -> Floor:
        return Floor(dict(self.versions), self.bundle_id)


def walk(reader: Reader, anchor: Anchor, now: datetime, copies: TrustedCopies = NO_COPIES) -> Walk:
    """Verify all metadata of a bundle. Raises a VerificationError that says what is wrong; never returns in doubt."""
    floor_time = anchor.time if isinstance(anchor, TrustState) else EPOCH
    chain = read_roots(reader, anchor)
    anchor = anchor.under(chain.root_bytes) if isinstance(anchor, TrustState) else anchor
    time = max(whole_seconds(now), floor_time)
    signers = {"root": chain.signers}
    found = Walk(
        reader, copies, chain.root, chain.root_bytes, time, used=set(chain.names), signers=signers, roots=chain.roots
    )
    found.dated["root"] = chain.root
    found.checks.append(f"root version {chain.root.version} leads back to the trusted root")
    snapshot_file, snapshot_version = _timestamp(found, anchor)
    snapshot = _snapshot(found, snapshot_file, snapshot_version, anchor)
    _targets(found, snapshot)
    for name, signed in found.dated.items():
        if signed.is_expired(found.time):
            raise expired(f"The {name} metadata", signed.expires, found.time)
    found.checks.append(f"nothing has expired at {stamp(found.time)}")
    for name in sorted(set(reader.names) - found.used):
        raise UnlistedFile(f"metadata/{name} does not belong here", "no signed list names it", RECOPY)
    return found


def expired(what: str, expires: datetime, time: datetime) -> MetadataExpired:
    """The error for what was good until `expires`, at a `time` that is not before it."""
    return MetadataExpired(
        f"{what} has expired",
        f"it was good until {stamp(expires)}, and it is at least {stamp(time)}",
        "Ask for a newer bundle; if the clock is wrong, set it",
    )


def _timestamp(found: Walk, anchor: Anchor) -> tuple[Listed, int]:
    what = "metadata/timestamp.json"
    if "timestamp.json" not in found.reader.names and not any(".snapshot." in name for name in found.reader.names):
        raise NotSealed("The bundle is not sealed", "it has no timestamp yet", "Run `plugsky bundle seal` on it")
    metadata = read_metadata(_read(found, "timestamp.json", MAX_TIMESTAMP), Timestamp, what)
    signed = metadata.signed
    found.signers["timestamp"] = count_signatures([found.root], "timestamp", metadata, what)
    found.channel = check_common(signed, None, what)
    found.sealed_at = parse_stamp(signed.unrecognized_fields.get(TIME), what)
    if found.sealed_at > found.time + CLOCKS_APART:
        raise SealedInFuture(
            "The bundle was sealed at a time that has not come yet",
            f"it says {stamp(found.sealed_at)}, and here it is {stamp(found.time)}",
            "Set this host's clock if it is wrong; if it is right, ask for a bundle sealed with a right clock",
        )
    found.time = max(found.time, found.sealed_at)
    found.checks.append("timestamp is signed")
    _note(found, "timestamp", signed, anchor)
    return listed(signed.snapshot_meta, what), check_version(signed.snapshot_meta.version)


def _snapshot(found: Walk, file: Listed, version: int, anchor: Anchor) -> Snapshot:
    name = f"{version}.snapshot.json"
    metadata, data = _listed_file(found, name, file, version, Snapshot, "snapshot", MAX_SNAPSHOT)
    snapshot = metadata.signed
    if tuple(sorted(snapshot.meta)) != tuple(sorted(ROLE_FILES)):
        raise malformed(f"metadata/{name}", f"it must list exactly {', '.join(ROLE_FILES)}")
    found.bundle_id = hashlib.sha256(data).hexdigest()
    found.evidence = evidence_of(snapshot.unrecognized_fields.get(EVIDENCE), f"metadata/{name}")
    found.since = since_of(snapshot.unrecognized_fields.get(SINCE), f"metadata/{name}")
    _note(found, "snapshot", snapshot, anchor)
    for role in ("targets", *ROLES):
        _above_floor(found, role, snapshot.meta[f"{role}.json"].version, anchor)
    known = _floor(found, anchor)
    if known is not None:
        known.refuse_other(found.versions["timestamp"], found.bundle_id)
    found.checks.append("snapshot is the one that the timestamp names, and is signed")
    return snapshot


def _targets(found: Walk, snapshot: Snapshot) -> None:
    for role in ("targets", *ROLES):
        meta = snapshot.meta[f"{role}.json"]
        name = f"{check_version(meta.version)}.{role}.json"
        file = listed(meta, f"The snapshot's entry of {role}")
        metadata, _ = _listed_file(found, name, file, meta.version, Targets, role, MAX_TARGETS_METADATA)
        targets = metadata.signed
        if role == "targets":
            check_delegations(found.root, targets, f"metadata/{name}")
            found.binds = binds_of(targets.unrecognized_fields.get(BINDS), f"metadata/{name}")
            found.binds.check_listed(found.evidence)
        else:
            if targets.delegations is not None:
                raise malformed(f"metadata/{name}", "it delegates further")
            found.binds.check_role(role, metadata, f"metadata/{name}")
        found.roles[role] = targets
        found.versions[role] = targets.version
        found.dated[role] = targets
    threshold = found.root.roles["targets"].threshold
    found.checks.append(
        f"targets and each role under it are signed by at least {threshold} of its keys, as one release"
    )


def _listed_file(
    found: Walk, name: str, file: Listed, version: int, kind: type[S], role: str, limit: int
) -> tuple[Metadata[S], bytes]:
    """Read a metadata file that another one lists, and check bytes, signatures, version and channel."""
    what = f"metadata/{name}"
    left_out = found.since is not None and role in found.since.roles
    data = _copy(found, role, file, limit) if left_out else _read(found, name, min(limit, file.length))
    if len(data) != file.length or hashlib.sha256(data).hexdigest() != file.sha256:
        raise DigestMismatch(f"{what} was changed", "its bytes are not the ones that were sealed", RECOPY)
    metadata: Metadata[S] = read_metadata(data, kind, what)
    signed = metadata.signed
    signing = "snapshot" if role == "snapshot" else "targets"
    found.signers[role] = count_signatures([found.root], signing, metadata, what)
    if signed.version != version:
        raise malformed(what, f"it says that it is version {signed.version}")
    check_common(signed, found.channel, what)
    found.files[role] = data
    return metadata, data


def _copy(found: Walk, role: str, file: Listed, limit: int) -> bytes:
    """A role file that a delta leaves out, as it was accepted before."""
    data = found.copies.read(file.sha256, file.length) if file.length <= limit else None
    if data is None:
        raise base_missing(f"The {role} metadata", found.since)
    return data


def _read(found: Walk, name: str, limit: int) -> bytes:
    found.used.add(name)
    return found.reader.read(name, limit)


def _note(found: Walk, role: str, signed: Signed, anchor: Anchor) -> None:
    _above_floor(found, role, signed.version, anchor)
    found.versions[role] = signed.version
    found.dated[role] = signed


def _above_floor(found: Walk, role: str, version: int, anchor: Anchor) -> None:
    known = _floor(found, anchor)
    if known is not None:
        known.refuse_older(role, version)


def _floor(found: Walk, anchor: Anchor) -> Floor | None:
    return anchor.floors.get(found.channel) if isinstance(anchor, TrustState) else None
