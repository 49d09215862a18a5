"""The media seam: a bundle as it was carried here, whatever it was carried on.

`open_media` gives a `Bundle`. Verification, planning and copying know nothing else of media. What holds for every form:

* opening reads no payload and believes nothing;
* `read` gives a small file whole: any of the metadata, the evidence and the early blobs, at any time;
* once the metadata is verified, `check_set` is told what must be there, and refuses what is not;
* after that `open` gives each payload blob, at most once each, in the order of `media_order.payload_order`; those that
  are not needed are left out. A reader takes bytes with `read` and `readinto` only: not every form has a file
  descriptor, or a length to ask for;
* `check_end`, when all that is needed was read, refuses what follows unlisted. Media that can be listed whole have
  nothing left to check then.

The media is only ever read.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from plugsky_bundles.media_directory import Directory, missing, open_bundle, unreadable
from plugsky_bundles.media_order import Contents
from plugsky_bundles.tar_stream import STDIN, open_stream
from plugsky_bundles.volume_sets import LABEL
from plugsky_bundles.volumes import Ask, Wanted, nobody, open_volumes

__all__ = ["Ask", "Bundle", "Directory", "Wanted", "missing", "nobody", "open_bundle", "open_media", "unreadable"]


class Bundle(Protocol):
    """`path`: where it is, for people. `files`: paths and sizes in bytes of what is known to be there so far."""

    @property
    def path(self) -> Path: ...

    @property
    def files(self) -> Mapping[str, int]: ...

    @property
    def sealed(self) -> bool:
        """Whether it has a timestamp, which sealing writes last."""
        ...

    def open(self, name: str) -> BufferedReader:
        """Open one file for reading. Raises MetadataMissing, BlobMissing, UnlistedFile or MediaUnreadable."""
        ...

    def read(self, name: str, *, limit: int) -> bytes:
        """The whole of a small file; one longer than `limit` bytes is a DigestMismatch."""
        ...

    def check_set(self, contents: Contents) -> str:
        """Refuse media that hold less or more than `contents`, as far as that can be seen without reading on.

        Returns what was checked, in words.
        """
        ...

    def check_end(self) -> None:
        """Refuse media on which something follows that was not listed."""
        ...


def open_media(path: Path, ask: Ask = nobody) -> Bundle:
    """The bundle at `path`: a directory, one of its volumes, a tar stream, or `-` for one on standard input.

    `ask` is for the volumes after the first. Raises NotFound, UnlistedFile, MediaUnreadable, MalformedStream or
    VolumeMixed.
    """
    try:
        single = path == STDIN or path.is_file() or path.is_fifo()
    except OSError as error:
        raise unreadable(str(path), error) from None
    if single:
        return open_stream(path)
    found = open_bundle(path)
    return open_volumes(found, ask) if LABEL in found.files else found
