"""Materials -> work: what of a new bundle is new, compared with what its channel sealed last and what a site holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from plugsky_builder.basis import base_of_last, base_of_receipt, sealed_last
from plugsky_builder.pack import Material
from plugsky_builder.work import Work
from plugsky_bundles import revoking
from plugsky_bundles.errors import ExistsError
from plugsky_bundles.format import REVOCATIONS
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.role_reuse import as_before, enough, taken_over
from plugsky_bundles.trustdir import TrustDir


def plan(
    trust: TrustDir,
    channel: str,
    materials: Sequence[Material],
    *,
    now: datetime,
    expires: datetime,
    since: bytes | None = None,
    progress: Progress = silent,
) -> Work:
    """The work that makes a bundle of these files and of what was revoked; with the receipt of a site, a delta.

    Raises the VerificationError of a receipt that cannot be built on.
    """
    revoked = revoking.load(trust.path)
    kept = sealed_last(trust, channel)
    materials = [
        *(material for material in materials if material.path != REVOCATIONS),
        Material.of_bytes(REVOCATIONS, revoked.to_json()),
    ]
    entries = [material.entry for material in materials]
    reuse: dict[str, bytes] = {}
    if kept is not None:
        reuse = taken_over(kept, trust.root, entries, until=enough(now, expires), revoked=revoked.keys)
    return Work(
        channel=channel,
        version=trust.next_version(channel),
        materials=tuple(sorted(materials, key=lambda material: material.path)),
        before={entry.path: known for entry in entries if (known := as_before(entry, kept)) is not None},
        taken_over=reuse,
        base=None if since is None else base_of_receipt(since, trust, kept, channel, reuse),
        trust=trust,
        now=now,
        expires=expires,
        progress=progress,
        revoked=revoked.keys,
    )


def plan_revocations(
    trust: TrustDir, channel: str, *, now: datetime, expires: datetime, progress: Progress = silent
) -> Work:
    """The work that makes the bundle sealed last again, with nothing new in it but what was revoked since.

    For every site that has that bundle. Role files are taken over as long as they are valid at all. Raises BaseMissing
    where no copies of it were kept, ExistsError when nothing was revoked since.
    """
    kept = sealed_last(trust, channel)
    revoked = revoking.load(trust.path)
    policy = Material.of_bytes(REVOCATIONS, revoked.to_json())
    entries = {} if kept is None else dict(kept.entries)
    old = entries.pop(REVOCATIONS, None)
    if old is not None and old.sha256 == policy.sha256:
        raise ExistsError(
            f"Nothing was revoked since {channel} was sealed last",
            "its list of revocations is the one that the trust directory holds",
            "Revoke something first: plugsky trust revoke",
        )
    reuse: dict[str, bytes] = {}
    if kept is not None:
        reuse = taken_over(kept, trust.root, [*entries.values(), policy.entry], until=now, revoked=revoked.keys)
    held = [Material(e.path, b"", e.length, e.sha256, None, e.custom) for e in entries.values()]
    return Work(
        channel=channel,
        version=trust.next_version(channel),
        materials=tuple(sorted([*held, policy], key=lambda material: material.path)),
        before=entries,
        taken_over=reuse,
        base=base_of_last(kept, channel, reuse),
        trust=trust,
        now=now,
        expires=expires,
        progress=progress,
        revoked=revoked.keys,
    )
