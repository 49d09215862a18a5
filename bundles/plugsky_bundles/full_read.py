"""The full read of a bundle: every byte on the media compared with what was signed.

Every blob against the digest in its name, and the blobs of each file together against the file's own digest, side by
side. A blob is read once, however many files share it: it is read when all of them have come to it. Only where that
cannot be (two files have the same blobs in another order, or one has a blob twice) it is read again. Where nothing is
shared, blobs are read in the order of the media.

Then the files outside the targets, and the custody log: its chain, and that a custodian (a snapshot key of the root)
signed it. Metadata was read before. Of a delta, the blobs that it leaves out are not there to be read: the files that
need them are given back, for their own digest is checked only where they are installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import CUSTODY, Chunk, FileEntry, blob_path
from plugsky_bundles.origins import FromMedia
from plugsky_bundles.pipeline import Hasher, Pipeline
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.verified import VerifiedBundle

STAGE: Final = "verify"
REPORT: Final = 16 << 20


def verify_payload(verified: VerifiedBundle, progress: Progress = silent) -> tuple[str, ...]:
    """Read everything; returns the paths of files that a delta does not bring whole.

    Raises DigestMismatch, BlobMissing, UnlistedFile, MediaUnreadable or ChainError (all exit 5).
    """
    files = {(entry.sha256, entry.blobs): _File.of(entry, verified.absent) for entry in verified.entries.values()}
    early = frozenset(blob.sha256 for blob in verified.contents.early)
    distinct = {blob.sha256: blob.length for file in files.values() for blob in file.blobs}
    meter = _Meter(progress, sum(distinct.values()) + sum(listed.length for listed in verified.evidence.values()))
    with Pipeline(meter.add) as pipeline:
        pipeline.thread(length=meter.total)
        for blob, readers in reading_order(files.values()):
            meter.item = readers[0].entry.path
            origin = FromMedia(
                verified.bundle, blob_path(blob.sha256), blob.length, meter.item, early=blob.sha256 in early
            )
            pipeline.take(origin, blob, [file.digest for file in readers if file.digest is not None])
        for name, listed in verified.evidence.items():
            meter.item = name
            origin = FromMedia(verified.bundle, name, listed.length, name, early=True)
            pipeline.take(origin, Chunk(listed.sha256, listed.length))
        pipeline.settle()
    for file in files.values():
        file.check()
    verified.bundle.check_end()
    if CUSTODY in verified.evidence:
        log = verified.bundle.read(CUSTODY, limit=verified.evidence[CUSTODY].length)
        verify_chain(BytesIO(log), verified.custodians)
    return tuple(entry.path for entry in verified.entries.values() if not _is_whole(entry, verified.absent))


@dataclass(slots=True)
class _File:
    """One content of the bundle: its blobs on the media, how far it has come, and its own digest in the making.

    No digest for a file that is its own blob, or that the media does not hold whole.
    """

    entry: FileEntry
    blobs: tuple[Chunk, ...]
    digest: Hasher | None
    at: int = field(default=0)

    @classmethod
    def of(cls, entry: FileEntry, absent: frozenset[str]) -> _File:
        there = tuple(blob for blob in entry.blobs if blob.sha256 not in absent)
        return cls(entry, there, hashlib.sha256() if entry.chunks and _is_whole(entry, absent) else None)

    @property
    def next(self) -> Chunk | None:
        return self.blobs[self.at] if self.at < len(self.blobs) else None

    def check(self) -> None:
        if self.digest is not None and self.digest.hexdigest() != self.entry.sha256:
            raise DigestMismatch(
                f"{self.entry.path} does not fit together",
                "its chunks are intact, but they do not make the file that was signed",
                "Do not use it; ask its builder for another copy",
            )


def _is_whole(entry: FileEntry, absent: frozenset[str]) -> bool:
    return all(blob.sha256 not in absent for blob in entry.blobs)


def reading_order(files: Iterable[_File]) -> Iterator[tuple[Chunk, list[_File]]]:
    """Each blob with the files that have come to it; those go on to their next one."""
    unfinished = [file for file in files if file.blobs]
    waiting: dict[str, list[_File]] = {}
    needed: dict[str, int] = {}
    for file in unfinished:
        waiting.setdefault(file.blobs[0].sha256, []).append(file)
        for blob in file.blobs:
            needed[blob.sha256] = needed.get(blob.sha256, 0) + 1

    def read(blob: Chunk) -> tuple[Chunk, list[_File]]:
        readers = waiting.pop(blob.sha256)
        needed[blob.sha256] -= len(readers)
        for file in readers:
            file.at += 1
            if (following := file.next) is not None:
                waiting.setdefault(following.sha256, []).append(file)
        return blob, readers

    while unfinished:
        stuck = True
        for file in unfinished:
            while (following := file.next) is not None and len(waiting[following.sha256]) == needed[following.sha256]:
                stuck = False
                yield read(following)
        unfinished = [file for file in unfinished if file.next is not None]
        if stuck and unfinished:
            yield read(unfinished[0].blobs[unfinished[0].at])


class _Meter:
    """Counts bytes and reports them now and then."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done, self.reported, self.item = progress, total, 0, -REPORT, ""

    def add(self, count: int) -> None:
        self.done += count
        if self.done - self.reported >= REPORT or self.done == self.total:
            self.reported = self.done
            self.progress(ProgressEvent(STAGE, min(self.done, self.total), self.total, self.item))
