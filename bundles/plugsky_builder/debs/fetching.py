"""Gets files from a Debian mirror into the cache, with apt's own downloader.

apt-helper reads the machine's apt settings and environment, so its proxies, certificates and `auth.conf` count; mirrors
are the recipe's and those of PLUGSKY_MIRRORS. It checks each SHA-256, and the cache hashes again. A download that was
cut off goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_builder import system_tools, web
from plugsky_builder.cache import Cache
from plugsky_bundles.errors import DigestMismatch, NoSpace, SourceError, SourceUnreachable
from plugsky_bundles.progress import Progress, ProgressEvent

HELPER: Final = "/usr/lib/apt/apt-helper"
OPTIONS: Final = ("-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3")
"""Not as the user _apt: the cache is the operator's own and closed to others."""
BATCH: Final = 64
SECONDS: Final = 6 * 3600
WORK: Final = "debs"
RENEW: Final = (
    "Renew the lock with `plugsky bundle lock RECIPE` and build again,"
    " or name mirrors on snapshot.debian.org of its date"
)
_MISSING: Final = re.compile(r"\s404 {1,2}\S")
"""How apt tells of an answer by its status, as in `404  Not Found`; a bare 404 may be part of a name."""
_UNREACHABLE: Final = ("resolving", "Could not connect", "Connection", "Unable to connect", "timed out", "unreachable")


@dataclass(frozen=True, slots=True, order=True)
class Wanted:
    """A file by its digest; `path` begins with the archive's name."""

    sha256: str
    length: int
    path: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class Mirror:
    """Debian's archives as this build reaches them: `bases` by archive; where the cache is offline, the cache alone."""

    def __init__(self, cache: Cache, bases: Mapping[str, str], progress: Progress) -> None:
        self.cache = cache
        self._bases = bases
        self._progress = progress

    def obtain(self, wanted: Collection[Wanted]) -> None:
        """Have every file of `wanted` in the cache.

        Raises SourceUnreachable, NotCached, SourceError for one that the mirror has no more, or DigestMismatch.
        """
        missing = sorted({item for item in wanted if not self.cache.has(item.sha256)}, key=lambda item: item.path)
        if missing:
            self.cache.going_out(f"{missing[0].name}, with {len(missing) - 1} more Debian files,")
        total = sum(item.length for item in missing)
        done = 0
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            self._fetch(batch, done, total)
            done += sum(item.length for item in batch)

    def newest(self, path: str, limit: int) -> bytes:
        """The file that the mirror has at `path` now, at most `limit` bytes."""
        self.cache.going_out(path)
        part = self.cache.work(WORK) / "newest.part"
        part.unlink(missing_ok=True)
        self._run([self._url(path), str(part), ""], path, lambda _: None)
        with part.open("rb") as file:
            data = file.read(limit + 1)
        part.unlink()
        if len(data) > limit:
            raise DigestMismatch(f"{path} is not usable", f"it is longer than {limit} bytes", "Check the mirror")
        return data

    def _fetch(self, batch: list[Wanted], before: int, total: int) -> None:
        work = self.cache.work(WORK)
        parts = [work / f"{item.sha256}.part" for item in batch]
        arguments = [
            text
            for item, part in zip(batch, parts, strict=True)
            for text in (self._url(item.path), str(part), f"SHA256:{item.sha256}")
        ]

        def tick(_said: bytes) -> None:
            sizes = [_size(part) for part in parts]
            current = next((item for item, size in zip(batch, sizes, strict=True) if size < item.length), batch[-1])
            self._progress(ProgressEvent("fetch", min(before + sum(sizes), total), total, current.name))

        tick(b"")
        first = batch[0]
        self._run(arguments, first.name if first.name.endswith(".deb") else first.path, tick)
        for item, part in zip(batch, parts, strict=True):
            if not part.is_file() or self.cache.adopt(part) != item.sha256:
                raise DigestMismatch(f"{item.name} is not what its lock pins", "the mirror gave other bytes", _TAMPERED)
        done = before + sum(item.length for item in batch)
        self._progress(ProgressEvent("fetch", done, total, batch[-1].name))

    def _url(self, path: str) -> str:
        archive, _, rest = path.partition("/")
        return web.mirrored(f"{self._bases[archive]}/{rest}")

    def _run(self, arguments: list[str], name: str, tick: system_tools.Tick) -> None:
        helper = system_tools.find(HELPER, "apt")
        said = system_tools.run(
            [helper, *OPTIONS, "download-file", *arguments], seconds=SECONDS, inherited=True, tick=tick
        )
        if said.code != 0:
            raise _failure(web.redacted(said.err), name)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _failure(text: str, name: str) -> SourceError | DigestMismatch | NoSpace:
    lines = [line for line in text.splitlines() if line.startswith("E: ") and line != "E: Download Failed"]
    why = " / ".join(lines)[:400] or text[-400:]
    if "Hash Sum mismatch" in text:
        return DigestMismatch("A package is not what its lock pins", why, _TAMPERED)
    if "No space left" in text:
        return NoSpace(f"{name} could not be kept", "the disk of the cache is full", "Free some space, or name --cache")
    if _MISSING.search(text):
        if name.endswith(".deb"):
            return SourceError("The mirror has a locked package no more", why, RENEW)
        return SourceError(
            f"The mirror does not have {name}", why, "Check the mirror, or wait: one that is being updated lacks files"
        )
    if any(mark in text for mark in _UNREACHABLE):
        return SourceUnreachable(f"{name} could not be downloaded", why, "Check the network and apt's proxy settings")
    return SourceError(f"{name} could not be downloaded", why, "Check apt's settings (apt-config dump Acquire)")


_TAMPERED: Final = "Run it again; if it stays so, the mirror was tampered with"
