"""The full read of a bundle: every byte on the media compared with what was signed.

For each file, its blobs in order: each blob against the digest in its name, and all of them together against the
file's own digest. A blob that several files share is read once per file. Then the files outside the targets, and the
custody log: its chain, and that a custodian (a snapshot key of the root) signed it. Metadata was read before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import CUSTODY, blob_path
from plugsky_bundles.media import Bundle, unreadable
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.verified import VerifiedBundle

STAGE: Final = "verify"
BUFFER: Final = 1 << 20
REPORT: Final = 16 << 20


def verify_payload(verified: VerifiedBundle, progress: Progress = silent) -> None:
    """Read everything. Raises DigestMismatch, BlobMissing, UnlistedFile, MediaUnreadable or ChainError (all exit 5)."""
    total = sum(entry.length for entry in verified.entries.values())
    total += sum(listed.length for listed in verified.evidence.values())
    meter = _Meter(progress, total)
    for entry in verified.entries.values():
        whole = hashlib.sha256()
        several = len(entry.blobs) > 1
        for blob in entry.blobs:
            name = blob_path(blob.sha256)
            _check(
                verified.bundle, name, blob.length, blob.sha256, meter, entry.path, whole.update if several else None
            )
        if (several and whole.hexdigest() != entry.sha256) or (not several and entry.blobs[0].sha256 != entry.sha256):
            raise DigestMismatch(
                f"{entry.path} does not fit together",
                "its chunks are intact, but they do not make the file that was signed",
                "Do not use it; ask its builder for another copy",
            )
    for name, listed in verified.evidence.items():
        _check(verified.bundle, name, listed.length, listed.sha256, meter, name, None)
    if CUSTODY in verified.evidence:
        with verified.bundle.open(CUSTODY) as file:
            verify_chain(file, verified.custodians)


class _Meter:
    """Counts bytes and reports them now and then."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done, self.reported = progress, total, 0, -REPORT

    def add(self, count: int, item: str) -> None:
        self.done += count
        if self.done - self.reported >= REPORT or self.done == self.total:
            self.reported = self.done
            self.progress(ProgressEvent(STAGE, self.done, self.total, item))


def _check(
    bundle: Bundle,
    name: str,
    length: int,
    sha256: str,
    meter: _Meter,
    item: str,
    also: Callable[[bytes], object] | None,
) -> None:
    """Compare one file on the media with its digest, never reading more than one byte beyond its length."""
    digest = hashlib.sha256()
    rest = length + 1
    with bundle.open(name) as file:
        try:
            while rest and (data := file.read(min(BUFFER, rest))):
                digest.update(data)
                if also is not None:
                    also(data)
                rest -= len(data)
                meter.add(len(data), item)
        except OSError as error:
            raise unreadable(name, error) from None
    if rest != 1 or digest.hexdigest() != sha256:
        raise DigestMismatch(
            f"{name} was changed",
            f"its bytes do not give the digest that was signed ({item})",
            "Copy the bundle again from its source",
        )
