"""Draft -> Signed: the signatures of the people who answer for a bundle.

`sign` adds the signature of every targets key at hand to targets and to each role under it, so that signers on
different machines each run it once. What a site would refuse is not signed. Signing again changes nothing; a sealed
bundle takes no further signature, because one would break its seal. Each signature is in the custody log first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plugsky_bundles.atomic import write_file
from plugsky_bundles.drafting import Draft, read_draft, sweep
from plugsky_bundles.errors import ExistsError
from plugsky_bundles.format import METADATA
from plugsky_bundles.media import open_bundle
from plugsky_bundles.metadata import serialise, sign_with
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import TrustDir, open_trust


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
    sweep(bundle_dir)
    bundle = open_bundle(bundle_dir)
    found = read_draft(bundle, trust.root)
    signers = trust.open_keys("targets", passphrase, key_names)
    first = not any(metadata.signatures for metadata in found.metadata.values())
    new = {role: sign_with(metadata, signers) for role, metadata in found.metadata.items()}
    added = {keyid for keyids in new.values() for keyid in keyids}
    if added:
        if bundle.sealed:
            raise ExistsError(
                f"{bundle_dir} is sealed", "a signature added now would break its seal", "Sign before sealing"
            )
        trust.log(passphrase, _records(trust, found, added, first, now))
        for role, metadata in found.metadata.items():
            if new[role]:
                write_file(bundle_dir / METADATA / f"{found.version}.{role}.json", serialise(metadata))
    everyone = set.intersection(*(set(metadata.signatures) for metadata in found.metadata.values()))
    return Signed(
        found.channel,
        found.version,
        found.content_id,
        trust.key_names(added),
        trust.key_names(everyone),
        trust.root.roles["targets"].threshold,
    )


def _records(trust: TrustDir, found: Draft, added: set[str], first: bool, now: datetime) -> list[dict[str, Any]]:
    """The lines of the custody log: the first signature also tells of the build."""
    build = [{"event": "bundle.build", "at": found.built, **found.identity}] if first else []
    return [
        *build,
        {"event": "bundle.sign", "at": stamp(now), **found.identity, "signers": list(trust.key_names(added))},
    ]
