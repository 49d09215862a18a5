"""What a build can take over from the bundle that its channel sealed last, and what a delta can leave to the sites.

Nothing of it is on trust: role files are taken over only with good signatures (`role_reuse`), and a receipt counts only
when an enrolled site, whose key was not revoked, signed it over a bundle that was sealed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from plugsky_bundles import enrolment, receipt, revoking
from plugsky_bundles.drafting import Base
from plugsky_bundles.errors import BaseMissing
from plugsky_bundles.format import REVOCATIONS
from plugsky_bundles.kept import Kept, read_kept
from plugsky_bundles.sealed_history import sealed_before
from plugsky_bundles.trustdir import TrustDir
from plugsky_bundles.trusted_copies import CHANNELS


def sealed_last(trust: TrustDir, channel: str) -> Kept | None:
    """The bundle that was sealed last; None for a new channel, and where no copies of its metadata were kept."""
    record = trust.channel(channel)
    if record is None:
        return None
    try:
        return read_kept(trust.path / CHANNELS / channel, record.bundle_id)
    except BaseMissing:
        return None


def base_of_receipt(data: bytes, trust: TrustDir, kept: Kept | None, channel: str, taken_over: Collection[str]) -> Base:
    """What a delta for the site that signed the receipt builds on. Raises the VerificationError of a bad receipt.

    `taken_over`: the roles whose files the new bundle takes over from `kept`; those that the site has are left out.
    """
    revoked = revoking.load(trust.path).keys
    sites = {keyid: key for keyid, key in enrolment.load(trust.path).site_keys().items() if keyid not in revoked}
    said = receipt.read(data, sites)
    receipt.check_base(said, channel, sealed_before(trust, channel), trust.roots)
    if kept is None:
        raise _no_copies(channel)
    roles = tuple(
        role for role in taken_over if role in said.roles and said.roles[role].sha256 == kept.listed[role].sha256
    )
    return _base(kept, said.bundle_id, hashlib.sha256(data).hexdigest(), roles, said.blobs)


def base_of_last(kept: Kept | None, channel: str, taken_over: Collection[str]) -> Base:
    """What a bundle builds on for every site that has the one sealed last."""
    if kept is None:
        raise _no_copies(channel)
    blobs = frozenset(blob.sha256 for entry in kept.entries.values() for blob in entry.blobs)
    lists = frozenset(blob.sha256 for blob in kept.lists.values())
    return _base(kept, kept.bundle_id, None, tuple(taken_over), blobs | lists)


def _base(kept: Kept, bundle_id: str, digest: str | None, roles: tuple[str, ...], says: frozenset[str]) -> Base:
    blobs = {blob.sha256 for entry in kept.entries.values() if entry.role in roles for blob in entry.blobs}
    lists = frozenset(blob.sha256 for blob in kept.lists.values())
    held = (says | blobs) - lists
    if (revocations := kept.entries.get(REVOCATIONS)) is not None:
        held -= {revocations.sha256}
    return Base(bundle_id, digest, roles, held, says & lists)


def _no_copies(channel: str) -> BaseMissing:
    return BaseMissing(
        f"Nothing can build on what was sealed last for {channel}",
        "the trust directory holds no copies of its metadata",
        "Build and seal a full bundle first",
    )
