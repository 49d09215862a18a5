"""A bundle as a directory on the media: what is there, and how to read it without being led astray.

Listing follows no link and opens no file. Anything but directories and regular files is refused at once; so is a
listing beyond its bounds. Opening walks from the bundle's directory one name at a time, each with O_NOFOLLOW, so a
directory swapped for a link is an error and never a detour. The media is only ever read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Final

from plugsky_bundles.errors import (
    RECOPY,
    BlobMissing,
    DigestMismatch,
    MediaUnreadable,
    MetadataMissing,
    NotFound,
    UnlistedFile,
)
from plugsky_bundles.format import METADATA
from plugsky_bundles.media_order import Contents

MAX_FILES: Final = 2_000_000
MAX_DEPTH: Final = 10


@dataclass(frozen=True, slots=True)
class Directory:
    """The files of a bundle by path relative to `path`, with their sizes in bytes; and its directories."""

    path: Path
    files: Mapping[str, int] = field(repr=False)
    directories: frozenset[str] = field(repr=False)

    @property
    def sealed(self) -> bool:
        """Whether sealing came to its end: the timestamp is written last."""
        return f"{METADATA}/timestamp.json" in self.files

    def open(self, name: str) -> BufferedReader:
        """Open one file for reading. Raises MetadataMissing, BlobMissing or UnlistedFile."""
        *parents, last = name.split("/")
        here = -1
        try:
            here = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for parent in parents:
                below = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = below
            file = os.fdopen(
                os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here), "rb"
            )
        except FileNotFoundError:
            raise missing(name) from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
                raise unreadable(name, error) from None
            raise UnlistedFile(
                f"{name} cannot be opened", f"it changed while it was read ({error.strerror})", RECOPY
            ) from None
        finally:
            if here >= 0:
                os.close(here)
        try:
            mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            file.close()
            raise unreadable(name, error) from None
        if not stat.S_ISREG(mode):
            file.close()
            raise UnlistedFile(f"{name} is not a file", "it changed while it was read", RECOPY)
        return file

    def read(self, name: str, *, limit: int) -> bytes:
        """The whole of a small file; one longer than `limit` bytes is a DigestMismatch, and no more is read."""
        with self.open(name) as file:
            try:
                data = file.read(limit + 1)
            except OSError as error:
                raise unreadable(name, error) from None
        if len(data) > limit:
            raise DigestMismatch(f"{name} is too long", f"it has more than {limit} bytes", RECOPY)
        return data

    def check_set(self, contents: Contents) -> str:
        """Refuse more or less than `contents`; says what was checked."""
        check_names(((part.name, part.length) for part in contents.parts), self.files, self.directories)
        return "every listed file is there with its size, and nothing else is"

    def check_end(self) -> None:
        """Nothing follows: all that is there was listed when it was opened."""


def check_names(listed: Iterable[tuple[str, int]], files: Mapping[str, int], directories: frozenset[str]) -> None:
    """Compare names and sizes with those listed.

    Raises MetadataMissing, BlobMissing, DigestMismatch or UnlistedFile.
    """
    unlisted = set(files)
    parents: set[str] = set()
    for name, length in listed:
        if name not in files:
            raise missing(name)
        if files[name] != length:
            raise DigestMismatch(f"{name} has the wrong size", f"{files[name]} bytes instead of {length}", RECOPY)
        unlisted.discard(name)
        parents.update(name[:cut] for cut, char in enumerate(name) if char == "/")
    for name in sorted(unlisted):
        raise UnlistedFile(f"{name} does not belong in the bundle", "no signed list names it", RECOPY)
    for name in sorted(directories - parents):
        raise UnlistedFile(f"{name} does not belong in the bundle", "it is an empty directory", RECOPY)


def open_bundle(path: Path) -> Directory:
    """List a bundle; nothing is read and nothing is believed. Raises NotFound or UnlistedFile."""
    files: dict[str, int] = {}
    directories: set[str] = set()
    sizes: dict[int, int] = {}

    def listing(prefix: str, handle: int, depth: int) -> None:
        with os.scandir(handle) as entries:
            for entry in entries:
                name = prefix + entry.name
                mode = entry.stat(follow_symlinks=False)
                if len(files) + len(directories) >= MAX_FILES:
                    raise UnlistedFile(f"{path} holds too many files", f"more than {MAX_FILES}", _CLEAN)
                if stat.S_ISREG(mode.st_mode):
                    files[name] = sizes.setdefault(mode.st_size, mode.st_size)
                elif stat.S_ISDIR(mode.st_mode) and depth < MAX_DEPTH:
                    directories.add(name)
                    below = os.open(
                        entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle
                    )
                    try:
                        listing(name + "/", below, depth + 1)
                    finally:
                        os.close(below)
                else:
                    raise UnlistedFile(f"{name} does not belong in a bundle", f"it is {_kind(mode.st_mode)}", _CLEAN)

    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"There is no bundle at {path}", "it is not a directory", "Check the path of the media"
        ) from None
    except OSError as error:
        raise unreadable(str(path), error) from None
    try:
        listing("", top, 0)
    except OSError as error:
        raise unreadable(str(path), error) from None
    finally:
        os.close(top)
    if not any(name.startswith(f"{METADATA}/") for name in files):
        raise NotFound(
            f"{path} is not a bundle", "it has no metadata", "Give the directory named plugsky-CHANNEL-VERSION"
        )
    return Directory(path, files, frozenset(directories))


def missing(name: str) -> BlobMissing | MetadataMissing:
    """The error for a listed file that is not there."""
    kind = MetadataMissing if name.startswith(f"{METADATA}/") else BlobMissing
    return kind(f"{name} is missing", "the bundle lists it, the media does not have it", RECOPY)


def unreadable(name: str, error: OSError) -> MediaUnreadable:
    return MediaUnreadable(
        f"{name} cannot be read",
        f"the media reports: {error.strerror}",
        "Try another reader or port, or run `plugsky bundle repair` on it",
    )


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "nested too deep" if stat.S_ISDIR(mode) else "neither a file nor a directory"


_CLEAN: Final = "Remove it, or copy the bundle again from its source"
