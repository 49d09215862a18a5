"""Recipe -> bundle: everything a recipe names, cut into chunks, with metadata that waits for signatures.

In this order: obtain every part (cached by hash); read the models' headers and templates; compare the content id with
what the channel sealed last and with a draft that lies there already; and only when it differs write a directory beside
the final one, give it its unsigned metadata, and rename it.
So an interrupted build leaves a cache to go on from and no half bundle, and building the same
thing twice changes nothing. A draft is replaced by changed content only while nobody has signed it. Same recipe and
same lock, same content id.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from tuf.api.metadata import Targets

from plugsky_builder.cache import Cache
from plugsky_builder.gather import gather
from plugsky_builder.pack import Material, Packer
from plugsky_builder.recipe import Recipe
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.drafting import SIGNED_ROLES, read_draft, write_draft
from plugsky_bundles.errors import DigestMismatch, ExistsError, KeyUnusable, NoSpace, NotFound, VerificationError
from plugsky_bundles.format import METADATA, MIB, blob_path, bundle_dirname, content_id
from plugsky_bundles.locks import locked
from plugsky_bundles.media import open_bundle
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.trustdir import TrustDir, open_trust

METADATA_ROOM: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class Built:
    """What a build came to: a `drafting.Draft` that lies at `path` and waits for signatures.

    When it is `unchanged` it was there already, perhaps even `sealed`. `bytes` is the length of all its files together.
    """

    path: Path
    channel: str
    version: int
    content_id: str
    files: int
    bytes: int
    unchanged: bool
    sealed: bool


def build(
    recipe: Recipe,
    out: Path,
    trust_dir: Path,
    *,
    cache: Path,
    wheelhouse: Path,
    now: datetime,
    progress: Progress = silent,
) -> Built:
    """Build `recipe` into a new directory below `out`.

    Raises RecipeError, SourceError, SourceUnreachable, NotFound, DigestMismatch, GgufError, NoSpace, ExistsError or
    Busy; nothing new lies in `out` then.
    """
    trust = open_trust(trust_dir)
    with out_of_space(out):
        out.mkdir(parents=True, exist_ok=True)
    store = Cache(cache)
    with (
        locked(cache, f"The builder's cache {cache} is in use", "another build is running"),
        locked(out, f"The output directory {out} is in use", "another build is running"),
    ):
        materials = gather(recipe, wheelhouse, store, progress)
        found = content_id(material.entry for material in materials)
        size = sum(material.length for material in materials)
        version, sealed = _already(out, trust, recipe.channel, found, now)
        unchanged = version is not None
        if version is None:
            version = trust.next_version(recipe.channel)
            _write(recipe, materials, out, version, trust.root_bytes, store, now, progress)
        path = out / bundle_dirname(recipe.channel, version)
        return Built(path, recipe.channel, version, found, len(materials), size, unchanged, sealed)


def _already(out: Path, trust: TrustDir, channel: str, found: str, now: datetime) -> tuple[int | None, bool]:
    """The version of a bundle in `out` with this content: the newest sealed one, or a draft of the next; and which."""
    record = trust.channel(channel)
    sealed = [record.version] if record is not None and record.content_id == found else []
    for version in (*sealed, trust.next_version(channel)):
        if _is_whole(out / bundle_dirname(channel, version), trust, found, now):
            return version, version in sealed
    return None, False


def _is_whole(path: Path, trust: TrustDir, found: str, now: datetime) -> bool:
    """Whether a bundle with that content lies at `path`, under this trust, with every blob and not expired."""
    try:
        bundle = open_bundle(path)
        draft = read_draft(bundle, trust.root)
    except (NotFound, KeyUnusable, VerificationError):
        return False
    blobs = (blob for entry in draft.entries.values() for blob in entry.blobs)
    return (
        draft.content_id == found
        and draft.expires > now
        and all(bundle.files.get(blob_path(blob.sha256)) == blob.length for blob in blobs)
    )


def _is_signed(path: Path) -> bool:
    """Whether a draft lies at `path` that someone has signed, whole or not."""
    for role in SIGNED_ROLES:
        for file in path.glob(f"{METADATA}/*.{role}.json"):
            try:
                if read_metadata(file.read_bytes(), Targets, file.name).signatures:
                    return True
            except VerificationError:
                continue
    return False


def _write(
    recipe: Recipe,
    materials: list[Material],
    out: Path,
    version: int,
    root: bytes,
    cache: Cache,
    now: datetime,
    progress: Progress,
) -> None:
    final = out / bundle_dirname(recipe.channel, version)
    if (final / "metadata" / "timestamp.json").exists():
        raise ExistsError(
            f"{final} is already sealed",
            "the trust directory does not know that version, so another one made it",
            "Choose another --out, or use the trust directory it was sealed with",
        )
    if _is_signed(final):
        raise ExistsError(
            f"{final} is signed already, and its content would change",
            "the signatures of people would be thrown away",
            f"Seal it with `plugsky bundle seal {final}`, or remove it and build again",
        )
    total = sum(material.length for material in materials)
    room = os.statvfs(out)
    if (free := room.f_bavail * room.f_frsize) < total + METADATA_ROOM:
        raise NoSpace(
            f"The bundle does not fit into {out}",
            f"it needs {(total + METADATA_ROOM) // MIB} MiB, {free // MIB} MiB are free",
            "Free some space or choose another --out",
        )
    partial = out / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with out_of_space(out):
            partial.mkdir()
            packer = Packer(partial, lambda done, item: progress(ProgressEvent("write", done, total, item)))
            entries = []
            for material in materials:
                try:
                    entries.append(packer.add(material))
                except DigestMismatch:
                    cache.discard(material.sha256)
                    raise
            expires = now + timedelta(days=recipe.valid_days)
            write_draft(partial, entries, channel=recipe.channel, version=version, root=root, now=now, expires=expires)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_directory(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
