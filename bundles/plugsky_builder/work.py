"""What is to be written of a bundle, and writing it: a directory beside the final one, renamed when it is whole.

A bundle like it that lies there already, sealed or as a draft, is left alone: same content, under this trust, whole,
not expired, and made for the same sites. A draft is replaced by changed content only while nobody has signed it.
Whatever goes wrong leaves nothing behind. Of a delta the files are read twice: once to know what is missing and whether
it fits, and then what is missing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.metadata import Targets

from plugsky_builder.cache import Cache
from plugsky_builder.pack import Material, Packer
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.drafting import SIGNED_ROLES, Base, read_draft, write_draft
from plugsky_bundles.errors import DigestMismatch, ExistsError, KeyUnusable, NoSpace, NotFound, VerificationError
from plugsky_bundles.format import BLOBS, METADATA, MIB, FileEntry, blob_path, bundle_dirname, content_id
from plugsky_bundles.linux_calls import sync_file_system
from plugsky_bundles.media import open_bundle
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.role_reuse import signed_well
from plugsky_bundles.since import Since
from plugsky_bundles.sizes import shortage
from plugsky_bundles.state import TrustState
from plugsky_bundles.trustdir import TrustDir
from plugsky_bundles.trusted_copies import CHANNELS, CopiesIn
from plugsky_bundles.verify import verify_metadata

METADATA_ROOM: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class Built:
    """What a build came to: a `drafting.Draft` that lies at `path` and waits for signatures.

    When it is `unchanged` it was there already, perhaps even `sealed`. `bytes` is the length of all its files together,
    `media_bytes` that of the blobs that lie on the media. `since` is the bundle that a delta builds on, `taken_over`
    the roles that are signed already, `left_out` those of them that will not be on the media. `not_rehearsed` says of
    each target whose installation was not rehearsed now why not,
    and `warnings` what else people should hear.
    """

    path: Path
    channel: str
    version: int
    content_id: str
    files: int
    bytes: int
    media_bytes: int
    unchanged: bool
    sealed: bool
    since: str | None = None
    taken_over: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    not_rehearsed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A bundle that is to be written: its files, with the chunks that they had before, and what it takes over.

    `revoked` are keyids that count for nothing.
    `evidence` gives the files that lie beside them, `evidence/…`; it is called only when the bundle is really written.
    """

    channel: str
    version: int
    materials: tuple[Material, ...]
    before: Mapping[str, FileEntry]
    taken_over: Mapping[str, bytes]
    base: Base | None
    trust: TrustDir
    now: datetime
    expires: datetime
    progress: Progress
    revoked: frozenset[str] = frozenset()
    evidence: Callable[[], Sequence[Material]] = field(default=tuple)

    @property
    def content_id(self) -> str:
        return content_id(material.entry for material in self.materials)


def carry_out(work: Work, out: Path, cache: Cache | None) -> Built:
    """Write the bundle below `out`, or find it there. Raises ExistsError, DigestMismatch, NoSpace or BlobMissing."""
    version, sealed = _already(work, out)
    unchanged = version is not None
    if version is None:
        version = work.version
        _write(work, out, cache)
    path = out / bundle_dirname(work.channel, version)
    files = open_bundle(path).files
    return Built(
        path=path,
        channel=work.channel,
        version=version,
        content_id=work.content_id,
        files=len(work.materials),
        bytes=sum(material.length for material in work.materials),
        media_bytes=sum(length for name, length in files.items() if name.startswith(f"{BLOBS}/")),
        unchanged=unchanged,
        sealed=sealed,
        since=None if work.base is None else work.base.bundle_id,
        taken_over=tuple(work.taken_over),
        left_out=() if work.base is None else work.base.roles,
    )


def _already(work: Work, out: Path) -> tuple[int | None, bool]:
    """The version of a bundle in `out` like this: the newest sealed one, or a draft of the next; and which."""
    record = work.trust.channel(work.channel)
    if (
        record is not None
        and record.content_id == work.content_id
        and _is_sealed_like(out / bundle_dirname(work.channel, record.version), work)
    ):
        return record.version, True
    if _is_draft_like(out / bundle_dirname(work.channel, work.version), work):
        return work.version, False
    return None, False


def _is_sealed_like(path: Path, work: Work) -> bool:
    """Whether a sealed bundle with that content lies at `path`, under this trust, whole and not expired."""
    copies = CopiesIn(work.trust.path / CHANNELS / work.channel)
    try:
        anchor = TrustState(work.trust.root_bytes)
        verified = verify_metadata(open_bundle(path), anchor, now=work.now, copies=copies)
    except (NotFound, VerificationError):
        return False
    return verified.content_id == work.content_id and _same_base(verified.since, work)


def _is_draft_like(path: Path, work: Work) -> bool:
    """Whether a draft with that content lies at `path`, under this trust, with every blob and not expired."""
    try:
        bundle = open_bundle(path)
        draft = read_draft(bundle, work.trust.root)
    except (NotFound, KeyUnusable, VerificationError):
        return False
    blobs = (
        blob
        for entry in draft.entries.values()
        for blob in (entry.blobs if work.base is None else work.base.lacks(entry))
    )
    before = {role: metadata for role, metadata in draft.metadata.items() if role not in draft.fresh}
    return (
        draft.content_id == work.content_id
        and draft.expires > work.now
        and all(metadata.signed.expires > work.now for metadata in before.values())
        and all(signed_well(metadata, work.trust.root, role, work.revoked) for role, metadata in before.items())
        and _same_base(draft.since, work)
        and all(bundle.files.get(blob_path(blob.sha256)) == blob.length for blob in blobs)
    )


def _same_base(since: Since | None, work: Work) -> bool:
    """Whether a delta that says `since` was made for the same sites as this one is to be."""
    wanted = None if work.base is None else (work.base.bundle_id, work.base.receipt)
    return wanted == (None if since is None else (since.bundle_id, since.receipt))


def _is_signed(path: Path, version: int) -> bool:
    """Whether a draft lies at `path` that someone has signed, whole or not."""
    for role in SIGNED_ROLES:
        for file in path.glob(f"{METADATA}/{version}.{role}.json"):
            try:
                if read_metadata(file.read_bytes(), Targets, file.name).signatures:
                    return True
            except VerificationError:
                continue
    return False


def _write(work: Work, out: Path, cache: Cache | None) -> None:
    final = out / bundle_dirname(work.channel, work.version)
    if (final / "metadata" / "timestamp.json").exists():
        raise ExistsError(
            f"{final} is already sealed",
            "the trust directory does not know that version, so another one made it",
            "Choose another --out, or use the trust directory it was sealed with",
        )
    if _is_signed(final, work.version):
        raise ExistsError(
            f"{final} is signed already, and its content would change",
            "the signatures of people would be thrown away",
            f"Seal it with `plugsky bundle seal {final}`, or remove it and build again",
        )
    partial = out / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    evidence = work.evidence()
    try:
        with out_of_space(out):
            partial.mkdir()
            _write_evidence(evidence, partial, work.base)
            entries = (
                _pack(work, partial, cache) if work.base is None else _pack_missing(work, work.base, partial, cache)
            )
            write_draft(
                partial,
                entries,
                channel=work.channel,
                version=work.version,
                root=work.trust.root_bytes,
                now=work.now,
                expires=work.expires,
                taken_over=work.taken_over,
                base=work.base,
            )
            _sync(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_directory(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_evidence(evidence: Sequence[Material], partial: Path, base: Base | None) -> None:
    """Write the evidence, without that of roles that will not be on the media: the sites have it already."""
    left_out = () if base is None else tuple(f"evidence/{role}/" for role in base.roles)
    for material in evidence:
        if not material.path.startswith(left_out):
            path = partial / material.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with material.open() as source, path.open("wb") as out:
                shutil.copyfileobj(source, out)


def _pack(work: Work, partial: Path, cache: Cache | None) -> list[FileEntry]:
    """Write every file, in one read."""
    total = sum(material.length for material in work.materials)
    _check_room(partial, total)
    packer = Packer(partial, lambda done, item: work.progress(ProgressEvent("write", done, total, item)))
    entries = []
    for material in work.materials:
        with _forgetting(cache, material):
            entries.append(packer.add(material, work.before.get(material.path)))
    return entries


def _pack_missing(work: Work, base: Base, partial: Path, cache: Cache | None) -> list[FileEntry]:
    """Find out what the sites lack, and write that."""
    known = {path: entry for path, entry in work.before.items() if not base.lacks(entry)}
    new = [material for material in work.materials if material.path not in known]
    total = sum(material.length for material in new)
    packer = Packer(partial, lambda done, item: work.progress(ProgressEvent("compare", done, total, item)))
    surveyed = []
    for material in new:
        with _forgetting(cache, material):
            surveyed.append((material, packer.survey(material, work.before.get(material.path))))
    missing = {blob.sha256: blob.length for _, entry in surveyed for blob in base.lacks(entry)}
    needed = sum(missing.values())
    _check_room(partial, needed)
    packer = Packer(partial, lambda done, item: work.progress(ProgressEvent("write", done, needed, item)))
    for material, entry in surveyed:
        known[material.path] = entry
        with _forgetting(cache, material):
            packer.add_missing(material, entry, base.held)
    return [known[material.path] for material in work.materials]


def _sync(partial: Path) -> None:
    """Put all that was written on disk, in one go: thousands of small blobs would each wait for the disk."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _forgetting(cache: Cache | None, material: Material) -> Iterator[None]:
    """Throw a cached file away that turns out not to be what is pinned."""
    try:
        yield
    except DigestMismatch:
        if cache is not None:
            cache.discard(material.sha256)
        raise


def _check_room(partial: Path, total: int) -> None:
    room = os.statvfs(partial)
    if (free := room.f_bavail * room.f_frsize) < total + METADATA_ROOM:
        raise NoSpace(
            f"The bundle does not fit into {partial.parent}",
            shortage(total + METADATA_ROOM, free),
            "Free some space or choose another --out",
        )
