"""Copies of metadata that was accepted or sealed before, for bundles that leave unchanged metadata out.

A directory `channels/<channel>/` of a site's or an operator's trust holds files `sha256-<hex>`: the sealed snapshot of
the newest bundle (its name is the bundle id, which the trust state or the channel's record knows), the targets and role
files that this lists, the chunk lists that those name, and the list of revocations. Whoever reads a copy hashes it
again: one that was changed, or is a link, counts as one that is not there.

Safe against power cuts in this order: `keep` adds the copies of a bundle; then the trust state or the channel's record
is written; then `forget` removes what that bundle does not name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import BundleError
from plugsky_bundles.format import MAX_TARGETS_METADATA, METADATA, blob_path, is_sha256
from plugsky_bundles.media import Bundle

CHANNELS: Final = "channels"
_COPY: Final = re.compile(r"sha256-([0-9a-f]{64})", re.ASCII)


class TrustedCopies(Protocol):
    """Where role files and chunk lists come from that are not on the media."""

    def read(self, sha256: str, length: int, /) -> bytes | None:
        """The bytes with that digest and length in bytes, hashed just now; None where they are not kept."""


class NoCopies:
    """What someone has who holds nothing but the media and the paper."""

    def read(self, _sha256: str, _length: int, /) -> bytes | None:
        return None


NO_COPIES: Final = NoCopies()


class CopiesIn:
    """The copies in a directory; one that does not exist holds none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, sha256: str, length: int, /) -> bytes | None:
        data = self.find(sha256, length)
        return data if data is not None and len(data) == length else None

    def find(self, sha256: str, limit: int) -> bytes | None:
        """The copy with that digest, of at most `limit` bytes."""
        if not is_sha256(sha256):
            return None
        try:
            handle = os.open(self._directory / f"sha256-{sha256}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return None
            raise
        with os.fdopen(handle, "rb") as file:
            data = file.read(limit + 1)
        return data if len(data) <= limit and hashlib.sha256(data).hexdigest() == sha256 else None


class CopiesOn:
    """The metadata and the blobs of another bundle, which need not be trusted: what is asked for is named by digest."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def read(self, sha256: str, length: int, /) -> bytes | None:
        name = self._role_files.get(sha256, blob_path(sha256))
        if self._bundle.files.get(name) != length:
            return None
        data = self._bundle.read(name, limit=length)
        return data if len(data) == length and hashlib.sha256(data).hexdigest() == sha256 else None

    @cached_property
    def _role_files(self) -> dict[str, str]:
        """Role files by digest."""
        found: dict[str, str] = {}
        for name, length in self._bundle.files.items():
            if name.startswith(f"{METADATA}/") and length <= MAX_TARGETS_METADATA:
                with suppress(BundleError):
                    found[hashlib.sha256(self._bundle.read(name, limit=length)).hexdigest()] = name
        return found


class EitherOf:
    """Several places, asked in order."""

    def __init__(self, *places: TrustedCopies) -> None:
        self._places = places

    def read(self, sha256: str, length: int, /) -> bytes | None:
        found = (place.read(sha256, length) for place in self._places)
        return next((data for data in found if data is not None), None)


def keep(directory: Path, copies: Iterable[tuple[str, bytes]]) -> None:
    """Add copies (digest and bytes) to a directory; what is there whole already is left alone. Raises NoSpace."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = CopiesIn(directory)
    for sha256, data in copies:
        if there.read(sha256, len(data)) is None:
            write_file(directory / f"sha256-{sha256}", data)


def forget(directory: Path, needed: Iterable[str]) -> None:
    """Remove the copies whose digest is not `needed`, and what an interrupted `keep` left."""
    wanted = {f"sha256-{digest}" for digest in needed}
    for path in directory.iterdir() if directory.is_dir() else ():
        if (_COPY.fullmatch(path.name) and path.name not in wanted) or path.name.endswith(".part"):
            path.unlink()
