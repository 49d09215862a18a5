"""A minimal host of a target, as a tar file: what the release calls essential, and apt. For rehearsals; never travels.

It is made by mmdebstrap, without a network, from packages of the release itself that Debian's signed index vouches for,
without its updates: a host as an installer leaves it, on which a bundle's newer packages really replace something. The
tar is kept in the cache by hash, under the index that it follows from, and used again only where nobody else can write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from plugsky_builder import system_tools
from plugsky_builder.cache import Cache
from plugsky_builder.debs import closure, lint, releases, repository
from plugsky_builder.debs.closure import ESSENTIAL, VerifiedIndex
from plugsky_builder.debs.fetching import Mirror, Wanted
from plugsky_builder.targets import Target
from plugsky_bundles.errors import SourceError
from plugsky_bundles.progress import Progress, ProgressEvent

SECONDS: Final = 900
WORK: Final = "base-system"
EPOCH: Final = "1577836800"


def obtain(target: Target, index: VerifiedIndex, extra: Sequence[str], mirror: Mirror, progress: Progress) -> Path:
    """The tar of a host with the `extra` packages besides. `index` is that of the release itself.

    Raises SourceError where a tool is missing or fails, and what `Mirror.obtain` raises.
    """
    cache = mirror.cache
    question = " ".join((target.folder, index.signed.index_sha256, *extra))
    note = f"base-{hashlib.sha256(question.encode()).hexdigest()[:32]}"
    known = cache.note(note)
    if isinstance(known, str) and cache.has(known) and _is_own(cache):
        with cache.file(known).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == known:
                return cache.file(known)
        cache.discard(known)
    tool = system_tools.find("mmdebstrap", "mmdebstrap")
    cache.drop_work(WORK)
    work = cache.work(WORK)
    try:
        tar = _make(tool, target, index, extra, mirror, work, progress)
        digest = cache.adopt(tar)
    finally:
        cache.drop_work(WORK)
    cache.keep_note(note, digest)
    return cache.file(digest)


def _is_own(cache: Cache) -> bool:
    """Whether nobody else can have written to the cache: root will run what lies in it."""
    places = [place.stat() for place in (cache.root, cache.root / "notes", cache.root / "files")]
    return all(place.st_uid == os.geteuid() and not place.st_mode & 0o022 for place in places)


def _make(
    tool: str,
    target: Target,
    index: VerifiedIndex,
    extra: Sequence[str],
    mirror: Mirror,
    work: Path,
    progress: Progress,
) -> Path:
    for name in ("closure", "repository", "tmp"):
        (work / name).mkdir()
    packages = closure.resolve([index], target.arch, [ESSENTIAL, "apt", *extra], b"", work / "closure")
    mirror.obtain([Wanted(package.sha256, package.length, package.path) for package in packages])
    folder = work / "repository"
    examined = []
    for package in packages:
        path = mirror.cache.file(package.sha256)
        (folder / package.file).hardlink_to(path)
        examined.append(lint.examine(package, path, target.arch))
    (folder / "Packages").write_bytes(repository.packages(examined))
    tar = work / "base.tar"
    include = [f"--include={','.join(extra)}"] if extra else []
    command = [
        *(system_tools.find("unshare", "util-linux"), "--net", tool, "--quiet", "--mode=root", "--variant=apt"),
        *(f"--architectures={target.arch}", *include, releases.release_of(target.os).codename, str(tar)),
        f"deb [trusted=yes] copy://{folder} ./",
    ]
    environment = {"TMPDIR": str(work / "tmp"), "SOURCE_DATE_EPOCH": EPOCH}
    said = system_tools.run(
        command,
        seconds=SECONDS,
        environment=environment,
        tick=lambda _: progress(ProgressEvent("rehearse", 0, 0, f"a minimal {target.folder}")),
    )
    if said.code != 0:
        raise SourceError(f"A minimal {target.folder} could not be made", said.last, "Run it again")
    return tar
