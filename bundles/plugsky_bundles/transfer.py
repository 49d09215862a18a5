"""Carries out the copying part of a plan: media, or what the site holds already, to the store, in one read.

Guarantees, in this order:
* every blob is opened on the media at most once, in the order of `media_order.payload_order`, without following links;
  it is hashed while it is copied, and the first wrong one stops the copy;
* what the site holds is not read from the media: what an interrupted transfer left in staging, what this transfer has
  copied for another file, and chunks of stored files. It is hashed just the same, and what is wrong of it comes from
  the media, if it lies there;
* a file becomes `staging/sha256-<hex>` only when all its chunks and its own digest are right and, for a GGUF, when the
  bounded reader accepts it;
* the store is touched only after every file of the plan has come that far and is on disk (syncfs): then each, and its
  chunk list before it, is renamed into it, and the names are put on disk;
* a refusal (a wrong byte, a full disk) leaves staging empty and the store as it was. After a kill, an interrupt, a
  medium that cannot be read or that was taken away, what was copied stays in staging, and the next run goes on from it.
Staging must be on the store's file system. One transfer at a time: the caller holds the site's lock.
Memory: that of the pipeline and one block more, and what is known of the chunks.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from plugsky_bundles import gguf
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.errors import BundleError, DigestMismatch, MediaUnreadable, PlanMismatch, SiteUnwritable
from plugsky_bundles.format import Chunk, FileEntry, blob_path, encode_chunk_list
from plugsky_bundles.linux_calls import sync_file_system
from plugsky_bundles.origins import FromMedia, FromSite
from plugsky_bundles.pipeline import BLOCK, Pipeline
from plugsky_bundles.plan import Plan
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.since import base_missing
from plugsky_bundles.staging import Part, clear, own, part_of
from plugsky_bundles.store_index import held, list_path, site_blobs, stored_path
from plugsky_bundles.uncached import FileWriter
from plugsky_bundles.verified import VerifiedBundle

__all__ = ["apply", "hash_file", "held", "whole", "withdraw"]


def whole(directory: Path, wanted: Mapping[str, int], progress: Progress = silent) -> dict[str, int]:
    """Of the `wanted` digests with their lengths, those that `directory` holds whole: every byte is read and hashed.

    A file that cannot be read is not whole.
    """
    found = {digest: length for digest, length in held(directory).items() if wanted.get(digest) == length}
    total, done, name = sum(found.values()), 0, ""

    def moved(count: int) -> None:
        nonlocal done
        done += count
        progress(ProgressEvent("check", done, total, name))

    right: dict[str, int] = {}
    with Pipeline(moved) as pipeline:
        for digest, length in found.items():
            path = stored_path(directory, digest)
            name, before = path.name, done
            moved(0)
            pipeline.thread(length=length)
            with suppress(BundleError):
                pipeline.take(FromSite(path, 0, length, path.name), Chunk(digest, length))
                right[digest] = length
            done = before + length
    return right


def hash_file(path: Path, moved: Callable[[int], None]) -> str:
    """SHA-256 of a file, in hex; `moved` hears how many bytes were read, before the first and after each block."""
    digest, done, buffer = hashlib.sha256(), 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        moved(done)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            moved(done)
    return digest.hexdigest()


def apply(
    plan: Plan, verified: VerifiedBundle, store: Path, staging: Path, progress: Progress = silent
) -> tuple[str, ...]:
    """Carry out the copying part of `plan`; returns the digests that are new in the store.

    Raises PlanMismatch, DigestMismatch, BlobMissing, BaseMissing, UnlistedFile, MediaUnreadable, GgufError, NoSpace or
    SiteUnwritable.
    """
    if (plan.bundle_id, plan.content_id) != (verified.bundle_id, verified.content_id):
        raise PlanMismatch(
            "The plan is for another bundle", f"it names {plan.bundle_id}, this is {verified.bundle_id}", "Plan again"
        )
    wanted: dict[str, FileEntry] = {}
    for file in plan.copied:
        wanted.setdefault(file.sha256, verified.entries[file.path])
    with _refusals(store, staging, tuple(wanted)), out_of_space(store):
        store.mkdir(parents=True, exist_ok=True)
        own(staging)
        clear(staging, keep=wanted)
        with _open_directory(staging) as descriptor:
            _stage(wanted.values(), verified, store, staging, progress)
            verified.bundle.check_end()
            progress(ProgressEvent("flush", 0, 1, "what was copied"))
            sync_file_system(descriptor)
        for digest, entry in wanted.items():
            if entry.chunks:
                list_path(staging, digest).replace(list_path(store, digest))
            stored_path(staging, digest).replace(stored_path(store, digest))
        sync_directory(store)
        progress(ProgressEvent("flush", 1, 1, "what was copied"))
        clear(staging)
    return tuple(wanted)


def withdraw(store: Path, digests: Iterable[str]) -> None:
    """Take files out of the store again that a refused installation had put there."""
    for digest in digests:
        stored_path(store, digest).unlink(missing_ok=True)
        list_path(store, digest).unlink(missing_ok=True)


def _stage(
    entries: Iterable[FileEntry], verified: VerifiedBundle, store: Path, staging: Path, progress: Progress
) -> None:
    """Leave every entry whole and checked in staging."""
    entries = sorted(entries, key=lambda entry: entry.path)
    total, done, item = sum(entry.length for entry in entries), 0, ""

    def moved(count: int) -> None:
        nonlocal done
        done += count
        progress(ProgressEvent("copy", done, total, item))

    sources = _Sources(entries, verified, store, staging)
    with Pipeline(moved) as pipeline:
        for entry in entries:
            item = entry.path
            moved(0)
            with part_of(staging, entry.sha256, entry.length) as part:
                pipeline.thread(length=entry.length)
                _fill(part, entry, sources, pipeline)
                if entry.path.endswith(".gguf"):
                    with open(part.descriptor, "rb", closefd=False) as model:
                        model.seek(0)
                        gguf.read(model, entry.length)
                if entry.chunks:
                    list_path(staging, entry.sha256).write_bytes(encode_chunk_list(entry.chunks))
                    list_path(staging, entry.sha256).chmod(_MODE)
                os.fchmod(part.descriptor, _MODE)
            part.path.replace(stored_path(staging, entry.sha256))


def _fill(part: Part, entry: FileEntry, sources: _Sources, pipeline: Pipeline) -> None:
    """Write `entry` into its part. When the media fails, what was read of it until then is written first."""
    with FileWriter(part.path, part.descriptor, entry.length) as sink:
        try:
            found = _copy(part, entry, sources, pipeline, sink)
        except MediaUnreadable:
            pipeline.settle()
            sink.flush()
            raise
    if found != entry.sha256:
        raise DigestMismatch(
            f"{entry.path} is not what was signed",
            f"its chunks are right, yet together they have the SHA-256 {found}",
            "Do not use this bundle; ask its builder for another one",
        )


def _copy(part: Part, entry: FileEntry, sources: _Sources, pipeline: Pipeline, sink: FileWriter) -> str:
    """Copy chunk by chunk, each from the first of its sources that gives the right bytes; returns the file's digest."""
    digest, at = hashlib.sha256(), 0
    for chunk in entry.blobs:
        *others, last = sources.of(chunk, entry, part, at)
        for origin in others:
            pipeline.settle()
            attempt = digest.copy()
            with suppress(BundleError):
                pipeline.take(origin, chunk, (attempt,) if entry.chunks else (), sink, at)
                digest = attempt
                break
        else:
            pipeline.take(last, chunk, (digest,) if entry.chunks else (), sink, at)
        at += chunk.length
    pipeline.settle()
    sink.flush()
    return digest.hexdigest() if entry.chunks else entry.sha256


class _Sources:
    """Says where the bytes of each chunk are to be looked for."""

    def __init__(self, entries: list[FileEntry], verified: VerifiedBundle, store: Path, staging: Path) -> None:
        self._verified = verified
        self._staging = staging
        self._early = frozenset(blob.sha256 for blob in verified.contents.early)
        uses = Counter(blob.sha256 for entry in entries for blob in entry.blobs)
        self._store = site_blobs(store, uses.keys())
        self._shared = frozenset(digest for digest, count in uses.items() if count > 1)
        self._places: dict[str, tuple[str, int]] = {}

    def of(self, chunk: Chunk, entry: FileEntry, part: Part, at: int) -> list[FromMedia | FromSite]:
        """The sources of the chunk at offset `at` of `entry`, the best first. Raises BaseMissing when there is none."""
        found: list[FromMedia | FromSite] = []
        if part.begun and part.has_data(at, chunk.length):
            found.append(FromSite(part.path, at, chunk.length, entry.path, placed=True))
        if chunk.sha256 in self._places:
            digest, offset = self._places[chunk.sha256]
            path = part.path if digest == entry.sha256 else stored_path(self._staging, digest)
            return [*found, FromSite(path, offset, chunk.length, entry.path)]
        if chunk.sha256 in self._shared:
            self._places[chunk.sha256] = (entry.sha256, at)
        place = self._store.get(chunk.sha256)
        if place is not None and place.length == chunk.length:
            found.append(FromSite(place.path, place.offset, chunk.length, entry.path))
        if chunk.sha256 not in self._verified.absent:
            name, early = blob_path(chunk.sha256), chunk.sha256 in self._early
            found.append(FromMedia(self._verified.bundle, name, chunk.length, entry.path, early))
        if not found:
            raise base_missing(f"A part of {entry.path}", self._verified.since)
        return found


@contextmanager
def _refusals(store: Path, staging: Path, digests: Iterable[str]) -> Iterator[None]:
    """Undo what a refusal interrupts; leave alone what a later run can go on from."""
    try:
        yield
    except MediaUnreadable:
        raise
    except BundleError:
        withdraw(store, digests)
        clear(staging)
        raise
    except OSError as error:
        raise SiteUnwritable(
            f"{error.filename or store} could not be written", error.strerror or "unknown", "Check the file system"
        ) from error


@contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_MODE: Final = 0o440
