"""Signed -> Sealed: the build machine closes a bundle, and nothing can be added any more.

`seal` refuses below the threshold, and files that are not as targets binds them (`binding`); it lists every role file
and every other file by length and SHA-256 in the snapshot, and ends with the timestamp: a bundle is sealed when
`timestamp.json` is there. Sealing again changes nothing. It is written to the custody log first; a copy of the log
travels in `evidence/custody.jsonl`, covered by the snapshot: the one file that is listed and that no people signed.

From a delta the metadata that it leaves out is taken away after that, and its note last, so that an interruption is
finished by sealing again. The trust directory keeps copies of the metadata of what it sealed last, for the next bundle.

**Bundle id** = SHA-256 of the sealed snapshot.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from plugsky_bundles.atomic import write_file
from plugsky_bundles.binding import INSTALLER
from plugsky_bundles.drafting import SIGNED_ROLES, Draft, read_draft, sweep
from plugsky_bundles.errors import ExistsError, MixAndMatch, SignatureMissing, ThresholdNotMet
from plugsky_bundles.format import CUSTODY, METADATA
from plugsky_bundles.kept import read_kept
from plugsky_bundles.media import Bundle, open_bundle
from plugsky_bundles.metadata import CHANNEL, EVIDENCE, TIME, count_signatures, serialise, sign_with
from plugsky_bundles.since import SINCE
from plugsky_bundles.state import TrustState
from plugsky_bundles.taking_out import put_back, take_out
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import CUSTODY_LOG, ChannelRecord, TrustDir, open_trust
from plugsky_bundles.trusted_copies import CHANNELS, CopiesIn, EitherOf, forget, keep
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import fingerprint


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed bundle; `fresh` is False when it had been sealed before and nothing was written.

    `install_sha256` is what `sha256sum install.sh` says, as its signers bound it; None without one.
    """

    path: Path
    channel: str
    version: int
    bundle_id: str
    content_id: str
    root_fingerprint: str
    install_sha256: str | None
    fresh: bool


def seal(bundle_dir: Path, trust_dir: Path, passphrase: bytes, now: datetime) -> Sealed:
    """Seal a signed draft, and verify the result as a site would; what a site would refuse is left unsealed.

    Raises SignatureMissing or ThresholdNotMet below the threshold, ExistsError when this version of the channel was
    sealed with other content, PassphraseError or KeyUnusable without the snapshot and timestamp keys.
    """
    trust = open_trust(trust_dir)
    sweep(bundle_dir)
    bundle = open_bundle(bundle_dir)
    if bundle.sealed:
        take_out(bundle, {})
        return _finish(trust, _verify(open_bundle(bundle_dir), trust, now), passphrase, now, fresh=False)
    found = read_draft(bundle, trust.root)
    _check_signatures(found, trust)
    last = trust.channel(found.channel)
    if last is not None and found.version <= last.version:
        raise ExistsError(
            f"Version {found.version} of {found.channel} cannot be sealed",
            f"version {last.version} was sealed as {last.bundle_id}",
            "Build it again: it gets the next version",
        )
    _check_taken_over(found, trust, last)
    (snapshot_key, *_), (timestamp_key, *_) = (trust.open_keys(role, passphrase) for role in ("snapshot", "timestamp"))
    trust.log(passphrase, [{"event": "bundle.seal", "at": stamp(now), **found.identity}])
    for number, root in enumerate(trust.roots, start=1):
        write_file(bundle_dir / METADATA / f"{number}.root.json", root)
    (bundle_dir / CUSTODY).parent.mkdir(exist_ok=True)
    write_file(bundle_dir / CUSTODY, (trust.path / CUSTODY_LOG).read_bytes())
    snapshot = _snapshot(open_bundle(bundle_dir), found, snapshot_key)
    write_file(bundle_dir / METADATA / f"{found.version}.snapshot.json", snapshot)
    write_file(bundle_dir / METADATA / "timestamp.json", _timestamp(found, snapshot, timestamp_key, now))
    taken: dict[str, bytes] = {}
    try:
        take_out(open_bundle(bundle_dir), taken)
        verified = _verify(open_bundle(bundle_dir), trust, now)
    except BaseException:
        for name in ("timestamp.json", f"{found.version}.snapshot.json"):
            (bundle_dir / METADATA / name).unlink()
        put_back(bundle_dir, taken)
        raise
    return _finish(trust, verified, passphrase, now, fresh=True)


def _check_signatures(found: Draft, trust: TrustDir) -> None:
    """Refuse a draft below its threshold, and say who can help: whoever signs may sit at another machine."""
    for role, metadata in found.metadata.items():
        try:
            count_signatures([trust.root], "targets", metadata, found.file(role))
        except (SignatureMissing, ThresholdNotMet) as error:
            others = trust.elsewhere(metadata.signatures)
            then = shlex.join(("plugsky", "trust", "sign", str(found.path)))
            if others:
                signing = "`plugsky trust sign COPY --keys DIR`"
                then = f"Copy it to {', '.join(others)}, who run {signing}; `plugsky trust merge` the copies here"
            raise type(error)(error.what, error.why, then) from None


def _check_taken_over(found: Draft, trust: TrustDir, last: ChannelRecord | None) -> None:
    """Refuse a role file that was signed before and is not the one sealed last: whoever signs sees what is new only."""
    for role in found.metadata.keys() - found.fresh:
        kept = None if last is None else read_kept(trust.path / CHANNELS / found.channel, last.bundle_id)
        if kept is None or kept.files[role] != (found.path / found.file(role)).read_bytes():
            raise MixAndMatch(
                f"{found.file(role)} is from another bundle",
                f"it is not the {role} metadata that was sealed last for {found.channel}",
                "Build it again",
            )


def _snapshot(bundle: Bundle, found: Draft, key: CryptoSigner) -> bytes:
    roles = {role: bundle.read(found.file(role), limit=1 << 24) for role in SIGNED_ROLES}
    log = bundle.read(CUSTODY, limit=bundle.files[CUSTODY])
    evidence = found.binds.to_dict()["files"]
    evidence[CUSTODY] = {"length": len(log), "sha256": hashlib.sha256(log).hexdigest()}
    meta = {f"{role}.json": _meta(found.metadata[role].signed.version, data) for role, data in roles.items()}
    fields: dict[str, Any] = {CHANNEL: found.channel, EVIDENCE: evidence}
    if found.since is not None:
        fields[SINCE] = found.since.to_dict()
    signed = Snapshot(found.version, None, found.expires, meta, fields)
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
    """Judge it as a site would that accepted what was sealed last."""
    copies = EitherOf(*(CopiesIn(path) for path in (trust.path / CHANNELS).glob("*") if path.is_dir()))
    return verify_metadata(bundle, TrustState(trust.root_bytes), now=now, copies=copies)


def _finish(trust: TrustDir, verified: VerifiedBundle, passphrase: bytes, now: datetime, *, fresh: bool) -> Sealed:
    """Record the seal. Also mends a run that was cut off between the timestamp and here."""
    record = ChannelRecord(
        verified.channel, verified.version, verified.bundle_id, verified.content_id, stamp(verified.sealed_at)
    )
    last, script = trust.channel(verified.channel), verified.evidence.get(INSTALLER)
    newer = last is None or last.version < record.version
    if newer or last == record:
        copies, directory = dict(verified.copies()), trust.path / CHANNELS / verified.channel
        keep(directory, copies.items())
        if newer:
            ids = {"bundle_id": record.bundle_id, "content_id": record.content_id}
            event = {"event": "bundle.sealed", "at": stamp(now), "channel": record.channel, "version": record.version}
            trust.log(passphrase, [event | ids])
            trust.record_channel(record)
        forget(directory, copies)
    return Sealed(
        verified.bundle.path,
        verified.channel,
        verified.version,
        verified.bundle_id,
        verified.content_id,
        fingerprint(trust.root_bytes),
        None if script is None else script.sha256,
        fresh,
    )
