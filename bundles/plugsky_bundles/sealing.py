"""build -> sign -> seal: the operator's side of a bundle's trust.

`draft` writes unsigned role files; `sign` adds the signatures of every targets key at hand to all of them, so that
signers on different machines each run it once; `seal` refuses below the threshold, lists every role file and every
other file by length and SHA-256 in the snapshot, and ends with the timestamp: a bundle is sealed when `timestamp.json`
is there. Signing and sealing again change nothing. Each step is written to the custody log first; a copy travels in
`evidence/custody.jsonl` and is covered by the snapshot.

**Bundle id** = SHA-256 of the sealed snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from plugsky_bundles.atomic import write_file
from plugsky_bundles.drafting import SIGNED_ROLES, Draft, read_draft
from plugsky_bundles.drafting import write_draft as draft
from plugsky_bundles.errors import ExistsError
from plugsky_bundles.format import BLOBS, CUSTODY, METADATA, check_evidence_path
from plugsky_bundles.media import Bundle, open_bundle
from plugsky_bundles.metadata import CHANNEL, EVIDENCE, TIME, count_signatures, serialise, sign_with
from plugsky_bundles.state import TrustState
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import CUSTODY_LOG, ChannelRecord, TrustDir, open_trust
from plugsky_bundles.trusted import verify_metadata
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.walk import fingerprint

__all__ = ["Draft", "Sealed", "Signed", "draft", "seal", "sign"]


@dataclass(frozen=True, slots=True)
class Signed:
    """Who signed now (`added`) and who has signed every role file (`signers`), by the names of their keys."""

    channel: str
    version: int
    content_id: str
    added: tuple[str, ...]
    signers: tuple[str, ...]
    threshold: int

    @property
    def present(self) -> int:
        """How many signatures every role file has."""
        return len(self.signers)

    @property
    def missing(self) -> int:
        """How many more must sign before the bundle can be sealed."""
        return max(0, self.threshold - self.present)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed bundle; `fresh` is False when it had been sealed before and nothing was written."""

    path: Path
    channel: str
    version: int
    bundle_id: str
    content_id: str
    root_fingerprint: str
    fresh: bool


def sign(
    bundle_dir: Path,
    trust_dir: Path,
    passphrase: bytes,
    key_names: Collection[str] | None = None,
    *,
    now: datetime | None = None,
) -> Signed:
    """Sign targets and every delegated role with every targets key in `trust_dir` that opens, or with the named ones.

    Raises what `TrustDir.open_keys` and `read_draft` raise, and ExistsError for a sealed bundle that lacks one of ours.
    """
    now = now or datetime.now(UTC)
    trust = open_trust(trust_dir)
    _sweep(bundle_dir)
    bundle = open_bundle(bundle_dir)
    found = read_draft(bundle, trust.root)
    signers = trust.open_keys("targets", passphrase, key_names)
    first = not any(metadata.signatures for metadata in found.metadata.values())
    new = {role: sign_with(metadata, signers) for role, metadata in found.metadata.items()}
    added = {keyid for keyids in new.values() for keyid in keyids}
    if added:
        if _is_sealed(bundle):
            raise ExistsError(
                f"{bundle_dir} is sealed", "a signature added now would break its seal", "Sign before sealing"
            )
        _log(trust, passphrase, _signing_records(trust, found, added, first, now))
        for role, metadata in found.metadata.items():
            if new[role]:
                write_file(bundle_dir / METADATA / f"{found.version}.{role}.json", serialise(metadata))
    everyone = set.intersection(*(set(metadata.signatures) for metadata in found.metadata.values()))
    return Signed(
        found.channel,
        found.version,
        found.content_id,
        _names(trust, added),
        _names(trust, everyone),
        trust.root.roles["targets"].threshold,
    )


def seal(bundle_dir: Path, trust_dir: Path, passphrase: bytes, now: datetime) -> Sealed:
    """Seal a signed draft, and verify the result as a site would; what a site would refuse is left unsealed.

    Raises SignatureMissing or ThresholdNotMet below the threshold, ExistsError when this version of the channel was
    sealed with other content, PassphraseError or KeyUnusable without the snapshot and timestamp keys.
    """
    trust = open_trust(trust_dir)
    _sweep(bundle_dir)
    bundle = open_bundle(bundle_dir)
    found = read_draft(bundle, trust.root)
    for role, metadata in found.metadata.items():
        count_signatures([trust.root], "targets", metadata, f"{METADATA}/{found.version}.{role}.json")
    if _is_sealed(bundle):
        return _finish(trust, _verify(bundle, trust, now), passphrase, now, fresh=False)
    last = trust.channel(found.channel)
    if last is not None and found.version <= last.version:
        raise ExistsError(
            f"Version {found.version} of {found.channel} cannot be sealed",
            f"version {last.version} was sealed as {last.bundle_id}",
            "Build it again: it gets the next version",
        )
    (snapshot_key, *_), (timestamp_key, *_) = (trust.open_keys(role, passphrase) for role in ("snapshot", "timestamp"))
    _log(trust, passphrase, [{"event": "bundle.seal", "at": stamp(now), **_identity(found)}])
    for number, root in enumerate(trust.roots, start=1):
        write_file(bundle_dir / METADATA / f"{number}.root.json", root)
    (bundle_dir / CUSTODY).parent.mkdir(exist_ok=True)
    write_file(bundle_dir / CUSTODY, (trust.path / CUSTODY_LOG).read_bytes())
    snapshot = _snapshot(open_bundle(bundle_dir), found, snapshot_key)
    write_file(bundle_dir / METADATA / f"{found.version}.snapshot.json", snapshot)
    write_file(bundle_dir / METADATA / "timestamp.json", _timestamp(found, snapshot, timestamp_key, now))
    try:
        verified = _verify(open_bundle(bundle_dir), trust, now)
    except BaseException:
        for name in ("timestamp.json", f"{found.version}.snapshot.json"):
            (bundle_dir / METADATA / name).unlink()
        raise
    return _finish(trust, verified, passphrase, now, fresh=True)


def _snapshot(bundle: Bundle, found: Draft, key: CryptoSigner) -> bytes:
    roles = {role: bundle.read(f"{METADATA}/{found.version}.{role}.json", limit=1 << 24) for role in SIGNED_ROLES}
    evidence: dict[str, Any] = {}
    for name, length in bundle.files.items():
        if not name.startswith((f"{METADATA}/", f"{BLOBS}/")):
            check_evidence_path(name)
            data = bundle.read(name, limit=length)
            evidence[name] = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    meta = {f"{role}.json": _meta(found.version, data) for role, data in roles.items()}
    signed = Snapshot(found.version, None, found.expires, meta, {CHANNEL: found.channel, EVIDENCE: evidence})
    metadata = Metadata(signed)
    sign_with(metadata, [key])
    return serialise(metadata)


def _timestamp(found: Draft, snapshot: bytes, key: CryptoSigner, now: datetime) -> bytes:
    meta = _meta(found.version, snapshot)
    fields = {CHANNEL: found.channel, TIME: stamp(now)}
    metadata = Metadata(Timestamp(found.version, None, found.expires, meta, fields))
    sign_with(metadata, [key])
    return serialise(metadata)


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _verify(bundle: Bundle, trust: TrustDir, now: datetime) -> VerifiedBundle:
    return verify_metadata(bundle, TrustState(trust.root_bytes), now=now)


def _finish(trust: TrustDir, verified: VerifiedBundle, passphrase: bytes, now: datetime, *, fresh: bool) -> Sealed:
    """Record the seal. Also mends a run that was cut off between the timestamp and here."""
    record = ChannelRecord(
        verified.channel, verified.version, verified.bundle_id, verified.content_id, stamp(verified.sealed_at)
    )
    last = trust.channel(verified.channel)
    if last is None or last.version < record.version:
        ids = {"bundle_id": record.bundle_id, "content_id": record.content_id}
        event = {"event": "bundle.sealed", "at": stamp(now), "channel": record.channel, "version": record.version}
        _log(trust, passphrase, [event | ids])
        trust.record_channel(record)
    return Sealed(
        verified.bundle.path,
        verified.channel,
        verified.version,
        verified.bundle_id,
        verified.content_id,
        fingerprint(trust.root_bytes),
        fresh,
    )


def _signing_records(
    trust: TrustDir, found: Draft, added: set[str], first: bool, now: datetime
) -> list[dict[str, Any]]:
    identity = _identity(found)
    build = [{"event": "bundle.build", "at": found.built, **identity}] if first else []
    return [*build, {"event": "bundle.sign", "at": stamp(now), **identity, "signers": list(_names(trust, added))}]


def _identity(found: Draft) -> dict[str, Any]:
    return {"channel": found.channel, "version": found.version, "content_id": found.content_id}


def _log(trust: TrustDir, passphrase: bytes, records: list[dict[str, Any]]) -> None:
    """Write to the custody log. A signer's own machine holds no custodian's key: there, only sealing is logged."""
    if not trust.holds("snapshot"):
        return
    with trust.custody(passphrase) as custody:
        for record in records:
            custody.append(record)


def _names(trust: TrustDir, keyids: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(trust.names.get(keyid, keyid) for keyid in keyids))


def _is_sealed(bundle: Bundle) -> bool:
    return f"{METADATA}/timestamp.json" in bundle.files


def _sweep(bundle_dir: Path) -> None:
    """Remove what an interrupted write left: half-written files under their temporary names."""
    for directory in (bundle_dir / METADATA, (bundle_dir / CUSTODY).parent):
        for part in directory.glob(".*.part"):
            part.unlink()
