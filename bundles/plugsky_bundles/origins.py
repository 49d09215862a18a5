"""The places from which the bytes of a chunk can come: the media, or what lies on the site already.

Whichever it is, `pipeline.Pipeline.take` compares the bytes with the signed digest; these classes know how to open the
place, and what to say when it does not give what it should.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final

from plugsky_bundles.errors import RECOPY, BlobMissing, BundleError, DigestMismatch, MediaUnreadable
from plugsky_bundles.media import Bundle, unreadable
from plugsky_bundles.pipeline import Reader
from plugsky_bundles.uncached import FileReader, reader

_COMPLETE: Final = "Install from a complete bundle, with --repair"


@dataclass(frozen=True, slots=True)
class FromMedia:
    """The file `name` on the media, of `length` bytes; `item` is the file of the bundle that it is part of.

    `early` ones are read whole: they are small, and media that are read forward have them in memory.
    """

    bundle: Bundle
    name: str
    length: int
    item: str
    early: bool = False
    local: bool = False
    placed: bool = False

    @contextmanager
    def open(self) -> Iterator[Reader]:
        if self.early:
            yield BytesIO(self.bundle.read(self.name, limit=self.length))
            return
        with self._opened() as file:
            source = reader(file, self.length)
            if isinstance(source, FileReader):
                if source.size != self.length:
                    raise self._bad("has the wrong length", f"{source.size} bytes, not {self.length}")
                yield source
            else:
                yield source
                if file.read(1):
                    raise self._bad("has the wrong length", f"more than {self.length} bytes")

    def wrong(self, found: str) -> BundleError:
        return self._bad("was changed", f"its bytes have the SHA-256 {found}")

    def short(self, left: int) -> BundleError:
        return self._bad("ends early", f"{left} of {self.length} bytes are missing")

    def unreadable(self, error: OSError) -> BundleError:
        return unreadable(self.name, error)

    def _opened(self) -> BufferedReader:
        try:
            return self.bundle.open(self.name)
        except BlobMissing:
            if self.bundle.path.exists():
                raise
            raise MediaUnreadable(
                f"{self.name} cannot be read",
                f"{self.bundle.path} is gone: the media was taken away",
                "Bring it back and run it again; what was copied is kept",
            ) from None

    def _bad(self, what: str, why: str) -> DigestMismatch:
        whose = "" if self.item == self.name else f" of {self.item}"
        return DigestMismatch(f"{self.name}{whose} {what}", why, RECOPY)


@dataclass(frozen=True, slots=True)
class FromSite:
    """`length` bytes from `offset` of a file on the site; `placed` when that is where they belong."""

    path: Path
    offset: int
    length: int
    item: str
    placed: bool = False
    local: bool = True

    @contextmanager
    def open(self) -> Iterator[Reader]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self.unreadable(error) from error
        try:
            yield FileReader(descriptor, self.length, self.offset)
        finally:
            os.close(descriptor)

    def wrong(self, found: str) -> BundleError:
        return self._bad(f"the bytes there have the SHA-256 {found}")

    def short(self, left: int) -> BundleError:
        return self._bad(f"{left} of {self.length} bytes are missing there")

    def unreadable(self, error: OSError) -> BundleError:
        return self._bad(f"the site reports: {error.strerror}")

    def _bad(self, why: str) -> DigestMismatch:
        return DigestMismatch(f"A part of {self.item} cannot be taken from {self.path}", why, _COMPLETE)
