"""The full read of media that can only be read forward: a tar stream, or one disc after the other.

Each part is read once, in the order of `media_order`, and compared with its digest. A file's own digest is made of its
blobs as they pass. That cannot be where a file has a blob that passed for another file before its turn came (or has one
twice, or leaves one out, in a delta): such files are given back by path. All their bytes were compared, chunk by
chunk, with the signed list; only that the chunks together are the file is left to the installation, which checks it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO

from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import CUSTODY, Chunk, FileEntry
from plugsky_bundles.media_order import Part
from plugsky_bundles.origins import FromMedia
from plugsky_bundles.pipeline import Hasher, Pipeline
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.verified import VerifiedBundle


def verify_forward(verified: VerifiedBundle, progress: Progress = silent) -> tuple[str, ...]:
    """Read everything once; returns the paths of files that were compared by their chunks only.

    Raises DigestMismatch, BlobMissing, UnlistedFile, MediaUnreadable, MalformedStream or ChainError (all exit 5).
    """
    contents = verified.contents
    files = _Files(verified.entries.values(), verified.absent)
    parts = [*contents.evidence_parts, *contents.early_parts, *contents.payload_parts]
    read_parts(verified, parts, progress, files)
    verified.bundle.check_end()
    if CUSTODY in verified.evidence:
        log = verified.bundle.read(CUSTODY, limit=verified.evidence[CUSTODY].length)
        verify_chain(BytesIO(log), verified.custodians)
    return files.check()


def read_parts(
    verified: VerifiedBundle, parts: Iterable[Part], progress: Progress = silent, files: _Files | None = None
) -> None:
    """Read parts of a bundle in the order given, and compare each with its digest."""
    todo = list(parts)
    total, done, item = sum(part.length for part in todo), 0, ""

    def moved(count: int) -> None:
        nonlocal done
        done += count
        progress(ProgressEvent("verify", done, total, item))

    with Pipeline(moved) as pipeline:
        pipeline.thread(length=total)
        for part in todo:
            digest = part.name.rpartition("sha256-")[2]
            item = verified.contents.files.get(digest, part.name)
            origin = FromMedia(verified.bundle, part.name, part.length, item)
            hashers = files.come_to(digest) if files is not None and part.name != digest else ()
            pipeline.take(origin, Chunk(part.sha256, part.length), hashers)
        pipeline.settle()


@dataclass(slots=True)
class _File:
    entry: FileEntry
    digest: Hasher = field(default_factory=hashlib.sha256)
    at: int = 0


class _Files:
    """The files that are made of several blobs, each waiting for its next one."""

    def __init__(self, entries: Iterable[FileEntry], absent: frozenset[str]) -> None:
        self._waiting: dict[str, list[_File]] = {}
        self._passed: set[str] = set()
        self._whole: list[_File] = []
        self._unproved: list[str] = []
        for entry in entries:
            if not absent.isdisjoint(blob.sha256 for blob in entry.blobs):
                self._unproved.append(entry.path)
            elif entry.chunks:
                self._wait(_File(entry))

    def come_to(self, sha256: str) -> list[Hasher]:
        """The digests of the files that this blob is next for."""
        self._passed.add(sha256)
        files = self._waiting.pop(sha256, [])
        for file in files:
            file.at += 1
            self._wait(file)
        return [file.digest for file in files]

    def check(self) -> tuple[str, ...]:
        """Compare the digests of all files that came together; returns the others' paths."""
        for file in self._whole:
            if file.digest.hexdigest() != file.entry.sha256:
                raise DigestMismatch(
                    f"{file.entry.path} does not fit together",
                    "its chunks are intact, but they do not make the file that was signed",
                    "Do not use it; ask its builder for another copy",
                )
        return tuple(sorted(self._unproved))

    def _wait(self, file: _File) -> None:
        if file.at == len(file.entry.blobs):
            self._whole.append(file)
        elif (following := file.entry.blobs[file.at].sha256) in self._passed:
            self._unproved.append(file.entry.path)
        else:
            self._waiting.setdefault(following, []).append(file)
