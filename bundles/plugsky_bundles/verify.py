"""Bundle -> VerifiedBundle: everything that can be known about a bundle without reading its payload.

`verify_metadata`, in order: the walk over the metadata (`walk`); the names of all files and their chunk lists
(`entries`), which together have the content id that targets binds; the exact set: every listed file lies on the media
with its listed size, and nothing else does; revocations, those of the site and those in the bundle. Then, and only
then, a `VerifiedBundle`.

A delta (`since`) is judged in the same order with the copies that a site kept; what it leaves out and those copies do
not hold is BaseMissing.

`verify_to_look` is for reading only: it verifies the same, and what a site has moved on from is said, not refused.

The full read of the payload is `full_read.verify_payload`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from plugsky_bundles.entries import Absence, absence, absent_blobs, chunk_lists, collect_entries, read_blob
from plugsky_bundles.errors import Revoked, Rollback
from plugsky_bundles.format import METADATA, REVOCATIONS, Chunk, FileEntry, content_id
from plugsky_bundles.media import Bundle
from plugsky_bundles.media_order import contents
from plugsky_bundles.metadata import Listed, key_names
from plugsky_bundles.state import MAX_REVOCATIONS, Revocations, TrustState, check_revoked
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import whole_seconds
from plugsky_bundles.trusted_copies import NO_COPIES, TrustedCopies
from plugsky_bundles.verified import Signer, VerifiedBundle
from plugsky_bundles.walk import Anchor, Walk, expired, fingerprint, walk


def verify_metadata(
    bundle: Bundle, anchor: Anchor, *, now: datetime, copies: TrustedCopies = NO_COPIES
) -> VerifiedBundle:
    """Verify everything but the payload.

    `anchor`: the site's TrustState, or on first use the fingerprint of a root (`sha256sum metadata/1.root.json`).
    `now`: the system clock, aware. `copies`: the role files and chunk lists of the channel that were accepted before;
    a delta that leaves out others is BaseMissing. Raises a VerificationError (exit code 5) naming the first thing that
    is wrong.
    """
    reader = _Metadata(bundle)
    found = walk(reader, anchor, now, copies)
    left_out = absence(bundle, found.since, copies)
    entries, lists = collect_entries(found.roles, chunk_lists(bundle, left_out))
    found.binds.check_content(entries.values())
    absent = absent_blobs(entries, lists, left_out)
    found.checks.append(f"{len(entries)} file names are safe and their chunk lists add up")
    on_media = contents(reader.seen, found.evidence, entries, lists, absent=absent, also=left_out.blob)
    found.checks.append(bundle.check_set(on_media))
    if found.since is not None:
        found.checks.append(
            f"it builds on bundle {found.since.bundle_id}: {len(absent)} blobs are not on the media and must be held"
            " by the site"
        )
    before = anchor if isinstance(anchor, TrustState) else TrustState(found.root_bytes)
    revocations = _revocations(bundle, entries, absent, left_out)
    revoked = Revocations() if revocations is None else Revocations.from_json(revocations)
    _check_revocations(found, entries, before.revocations | revoked)
    found.checks.append("no bundle, key or digest in it has been revoked")
    names = key_names(found.root, "The root")
    return VerifiedBundle(
        bundle=bundle,
        channel=found.channel,
        version=found.versions["targets"],
        bundle_id=found.bundle_id,
        content_id=content_id(entries.values()),
        root_fingerprint=fingerprint(found.root_bytes),
        signers={role: _by_name(keyids, names) for role, keyids in found.signers.items()},
        expires=found.expires,
        sealed_at=found.sealed_at,
        time=found.time,
        entries=entries,
        evidence=found.evidence,
        lists=lists,
        contents=on_media,
        custodians=frozenset(found.root.roles["snapshot"].keyids),
        roots=found.roots,
        anchor=anchor,
        checks=tuple(found.checks),
        state=before.accept(
            root=found.root_bytes,
            channel=found.channel,
            floor=found.floor,
            time=found.sealed_at,
            revocations=revoked,
        ),
        metadata=found.files if revocations is None else {**found.files, REVOCATIONS: revocations},
        since=found.since,
        absent=absent,
    )


def verify_to_look(
    bundle: Bundle, anchor: Anchor, *, now: datetime, copies: TrustedCopies = NO_COPIES
) -> tuple[VerifiedBundle, Rollback | None]:
    """Verify everything but the payload and the floors of a site; and why by these it would be refused there.

    For looking at a bundle, never for installing it: what comes back was not verified against the site's own state.
    """
    if not isinstance(anchor, TrustState):
        return verify_metadata(bundle, anchor, now=now, copies=copies), None
    verified = verify_metadata(bundle, replace(anchor, floors={}), now=now, copies=copies)
    newest = anchor.under(verified.state.root).floors.get(verified.channel)
    try:
        if newest is not None:
            newest.refuse(verified.state.floors[verified.channel])
    except Rollback as refusal:
        return verified, refusal
    return verified, None


def check_still_valid(verified: VerifiedBundle, now: datetime) -> None:
    """Refuse what expired after it was verified, while somebody was asked. Raises MetadataExpired."""
    time = max(whole_seconds(now), verified.time)
    if time >= verified.expires:
        raise expired("The bundle", verified.expires, time)


@dataclass(frozen=True, slots=True)
class _Metadata:
    """`metadata/` of a bundle as the walk wants it, and what was `seen` there by bare name."""

    bundle: Bundle
    seen: dict[str, Listed] = field(default_factory=dict)

    @property
    def names(self) -> Collection[str]:
        prefix = f"{METADATA}/"
        return [name.removeprefix(prefix) for name in self.bundle.files if name.startswith(prefix)]

    def read(self, name: str, limit: int) -> bytes:
        data = self.bundle.read(f"{METADATA}/{name}", limit=limit)
        self.seen[name] = Listed(len(data), hashlib.sha256(data).hexdigest())
        return data


def _by_name(keyids: Collection[str], names: Mapping[str, str]) -> tuple[Signer, ...]:
    return tuple(sorted((Signer(k, names.get(k, "")) for k in keyids), key=lambda signer: (signer.name, signer.keyid)))


def _revocations(
    bundle: Bundle, entries: Mapping[str, FileEntry], absent: frozenset[str], left_out: Absence
) -> bytes | None:
    """The list of revocations, from the media or as it was accepted before."""
    entry = entries.get(REVOCATIONS)
    if entry is None:
        return None
    if entry.length > MAX_REVOCATIONS or entry.chunks:
        raise malformed(REVOCATIONS, f"it must be one blob of at most {MAX_REVOCATIONS} bytes")
    blob = Chunk(entry.sha256, entry.length)
    return left_out.copy(blob, "The list of revocations") if blob.sha256 in absent else read_blob(bundle, blob)


def _check_revocations(found: Walk, entries: Mapping[str, FileEntry], revocations: Revocations) -> None:
    digests = {entry.sha256: entry.path for entry in entries.values()}
    digests |= {blob.sha256: entry.path for entry in entries.values() for blob in entry.blobs}
    check_revoked(revocations, found.bundle_id, digests)
    for role, keyids in found.signers.items():
        signing = found.root.roles[role if role in found.root.roles else "targets"]
        good = [keyid for keyid in keyids if keyid not in revocations.keys]
        if len(good) < len(keyids) and len(good) < signing.threshold:
            raise Revoked(
                f"The {role} metadata is signed with a revoked key",
                f"without it {len(good)} of {signing.threshold} signatures remain",
                "Ask for a bundle signed with the current keys",
            )
