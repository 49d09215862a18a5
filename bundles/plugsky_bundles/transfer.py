"""Copies the files of a plan from media into the store, reading each byte once.

Guarantees, in this order:
* a chunk is opened without following links, must have its exact length, and is hashed while it is copied; the first
  wrong byte stops the copy at the end of its chunk;
* a file becomes `staging/sha256-<hex>` only when all its chunks and its own digest are right and, for a GGUF, when the
  bounded reader accepts it; it is 0440 and on disk (fsync) by then;
* the store is touched only after every file of the plan has come that far: then each is renamed into it;
* a refusal (a wrong byte, a full disk) leaves staging empty and the store as it was. After a kill, an interrupt or a
  medium that cannot be read, finished files stay in staging; the next run hashes them there instead of reading the
  medium again.
Staging must be on the store's file system. One transfer at a time: the caller holds the site's lock.
Memory: one block of 1 MiB.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from plugsky_bundles import gguf
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.errors import BundleError, DigestMismatch, MediaUnreadable, PlanMismatch, SiteUnwritable
from plugsky_bundles.format import Chunk, FileEntry, blob_path
from plugsky_bundles.media import unreadable
from plugsky_bundles.plan import Plan
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.verified import VerifiedBundle

BLOCK: Final = 1024 * 1024
STORED: Final = re.compile(r"sha256-([0-9a-f]{64})", re.ASCII)
_PART: Final = "part"
_RECOPY: Final = "Copy the bundle again from its source; nothing was installed"


def held(directory: Path) -> dict[str, int]:
    """The digests of the whole files in a store or a staging directory, with their lengths."""
    if not directory.is_dir():
        return {}
    with os.scandir(directory) as entries:
        found = [(STORED.fullmatch(entry.name), entry) for entry in entries if entry.is_file(follow_symlinks=False)]
        return {match[1]: entry.stat(follow_symlinks=False).st_size for match, entry in found if match}


def whole(directory: Path, wanted: Mapping[str, int], progress: Progress = silent) -> dict[str, int]:
    """Of the `wanted` digests with their lengths, those that `directory` holds whole: every byte is read and hashed.

    A file that cannot be read is not whole.
    """
    found = {digest: length for digest, length in held(directory).items() if wanted.get(digest) == length}
    total, done = sum(found.values()), 0
    right: dict[str, int] = {}
    for digest, length in found.items():
        path = directory / f"sha256-{digest}"

        def moved(count: int, before: int = done, name: str = path.name) -> None:
            progress(ProgressEvent("check", before + count, total, name))

        with suppress(OSError):
            if hash_file(path, moved) == digest:
                right[digest] = length
        done += length
    return right


def hash_file(path: Path, moved: Callable[[int], None]) -> str:
    """SHA-256 of a file, in hex; `moved` hears how many bytes were read, before the first and after each block."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        moved(done)
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            moved(done)
    return digest.hexdigest()


def apply(
    plan: Plan, verified: VerifiedBundle, store: Path, staging: Path, progress: Progress = silent
) -> tuple[str, ...]:
    """Carry out the copying part of `plan`; returns the digests that are new in the store.

    Raises PlanMismatch, DigestMismatch, BlobMissing, UnlistedFile, MediaUnreadable, GgufError, NoSpace or
    SiteUnwritable.
    """
    if (plan.bundle_id, plan.content_id) != (verified.bundle_id, verified.content_id):
        raise PlanMismatch(
            "The plan is for another bundle", f"it names {plan.bundle_id}, this is {verified.bundle_id}", "Plan again"
        )
    wanted: dict[str, FileEntry] = {}
    for file in plan.copied:
        wanted.setdefault(file.sha256, verified.entries[file.path])
    store.mkdir(parents=True, exist_ok=True)
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    copier = _Copier(verified, staging, sum(entry.length for entry in wanted.values()), progress)
    try:
        for entry in wanted.values():
            copier.stage(entry)
        with out_of_space(store):
            for digest in wanted:
                (staging / f"sha256-{digest}").replace(store / f"sha256-{digest}")
            sync_directory(store)
    except MediaUnreadable:
        raise
    except BundleError:
        withdraw(store, tuple(wanted))
        clear(staging)
        raise
    except OSError as error:
        raise SiteUnwritable(
            f"{error.filename or store} could not be written", error.strerror or "unknown", "Check the file system"
        ) from error
    clear(staging)
    return tuple(wanted)


def withdraw(store: Path, digests: tuple[str, ...]) -> None:
    """Take files out of the store again that a refused installation had put there."""
    for digest in digests:
        (store / f"sha256-{digest}").unlink(missing_ok=True)


def clear(staging: Path) -> None:
    """Remove what transfers leave in staging."""
    for path in staging.iterdir():
        if path.name == _PART or STORED.fullmatch(path.name):
            path.unlink()


class _Copier:
    """Stages one file after the other and counts the bytes for progress."""

    def __init__(self, verified: VerifiedBundle, staging: Path, total: int, progress: Progress) -> None:
        self._media = verified.bundle
        self._staging = staging
        self._total = total
        self._progress = progress
        self._done = 0

    def stage(self, entry: FileEntry) -> None:
        """Leave `entry` whole, checked and synced in staging."""
        finished = self._staging / f"sha256-{entry.sha256}"
        if self._kept(finished, entry):
            return
        part = self._staging / _PART
        try:
            with out_of_space(finished):
                part.unlink(missing_ok=True)
                out = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    self._copy(entry, out)
                    if entry.path.endswith(".gguf"):
                        with open(out, "rb", closefd=False) as model:
                            model.seek(0)
                            gguf.read(model, entry.length)
                    os.fchmod(out, 0o440)
                    os.fsync(out)
                finally:
                    os.close(out)
                part.replace(finished)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _kept(self, finished: Path, entry: FileEntry) -> bool:
        """Whether an earlier, interrupted run left this file; it is believed only after it was hashed again."""
        if not finished.is_file() or finished.is_symlink():
            return False
        with finished.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
                self._moved(entry.length, entry)
                return True
        finished.unlink()
        return False

    def _copy(self, entry: FileEntry, out: int) -> None:
        whole = hashlib.sha256() if entry.chunks else None
        for chunk in entry.blobs:
            self._copy_chunk(chunk, entry, out, whole)
        if whole is not None and whole.hexdigest() != entry.sha256:
            raise DigestMismatch(
                f"{entry.path} is not what was signed",
                f"its chunks are right, yet together they have the SHA-256 {whole.hexdigest()}",
                "Do not use this bundle; ask its builder for another one",
            )

    def _copy_chunk(self, chunk: Chunk, entry: FileEntry, out: int, whole: Any) -> None:
        name = blob_path(chunk.sha256)
        digest = hashlib.sha256()
        left = chunk.length
        with self._media.open(name) as file:
            if (length := os.fstat(file.fileno()).st_size) != chunk.length:
                raise DigestMismatch(
                    f"{name} of {entry.path} has the wrong length", f"{length} bytes, not {chunk.length}", _RECOPY
                )
            while left:
                try:
                    block = os.read(file.fileno(), min(BLOCK, left))
                except OSError as error:
                    raise unreadable(name, error) from error
                if not block:
                    raise DigestMismatch(f"{name} of {entry.path} ends early", f"{left} bytes are missing", _RECOPY)
                digest.update(block)
                if whole is not None:
                    whole.update(block)
                _write(out, block)
                left -= len(block)
                self._moved(len(block), entry)
        if digest.hexdigest() != chunk.sha256:
            raise DigestMismatch(
                f"{name} of {entry.path} was changed", f"its bytes have the SHA-256 {digest.hexdigest()}", _RECOPY
            )

    def _moved(self, count: int, entry: FileEntry) -> None:
        self._done += count
        self._progress(ProgressEvent("copy", self._done, self._total, entry.path))


def _write(out: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(out, view) :]
