"""Writes a verified bundle as its one tar stream (`ustar`, `media_order`), each byte compared while it passes.

A wrong byte of the source ends the stream in the middle, without its end blocks: whoever reads it refuses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from plugsky_bundles import ustar
from plugsky_bundles.atomic import open_fresh, out_of_space, sync_directory
from plugsky_bundles.errors import ExistsError, FileTooLarge, NoSpace, NotFound, SiteUnwritable
from plugsky_bundles.listed_read import blocks
from plugsky_bundles.media_order import MAX_EARLY
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.readback import file_system
from plugsky_bundles.sizes import shortage, size, sizes
from plugsky_bundles.verified import VerifiedBundle


def stream_length(verified: VerifiedBundle) -> int:
    """The length of the stream in bytes. Raises FileTooLarge for a bundle that no stream can hold."""
    before = sum(part.length for part in verified.contents.before_payload)
    if before > MAX_EARLY:
        raise FileTooLarge(
            "This bundle does not go into a stream",
            f"{size(before)} precede its payload, at most {size(MAX_EARLY)} may",
            "Carry its directory instead",
        )
    parts = list(verified.contents.parts)
    heads = sum(len(ustar.header(part.name, part.length)) for part in parts)
    return heads + sum(part.length + ustar.padding(part.length) for part in parts) + len(ustar.END)


def stream(verified: VerifiedBundle, progress: Progress = silent) -> Iterator[bytes | memoryview]:
    """The bytes of the stream in blocks, each valid until the next. Raises FileTooLarge and what `blocks` raises."""
    total, done = stream_length(verified), 0
    for part in verified.contents.parts:
        yield ustar.header(part.name, part.length)
        done += ustar.BLOCK
        for block in blocks(verified.bundle, part, verified.contents):
            yield block
            done += len(block)
            progress(ProgressEvent("stream", done, total, verified.contents.whose(part.name)))
        yield bytes(ustar.padding(part.length))
        done += ustar.padding(part.length)
    verified.bundle.check_end()
    yield ustar.END
    progress(ProgressEvent("stream", total, total))


def save(blocks_of: Callable[[BinaryIO], None], length: int, path: Path) -> None:
    """Have `blocks_of` write about `length` bytes into a file that is at `path` once it is whole and on disk.

    Raises ExistsError, NotFound, NoSpace, FileTooLarge or SiteUnwritable, and what `blocks_of` raises.
    """
    if path.exists() or path.is_symlink():
        raise ExistsError(f"{path} is there already", "it is not overwritten", "Remove it, or name another file")
    if not path.parent.is_dir():
        raise NotFound(f"{path.parent} is not there", "the file would go into it", "Make it, or mount the medium")
    on, free = file_system(path.parent), os.statvfs(path.parent)
    if on.largest_file is not None and length > on.largest_file:
        has, limit = sizes(length, on.largest_file)
        raise FileTooLarge(
            f"{path} cannot hold the stream",
            f"it has {has}, and {on.kind} takes at most {limit} in one file",
            "Use a medium with exFAT or ext4, or carry the directory: plugsky bundle copy",
        )
    if length > free.f_bavail * free.f_frsize:
        raise NoSpace(
            f"The stream does not fit on {on.mount}",
            shortage(length, free.f_bavail * free.f_frsize),
            "Use a larger medium",
        )
    part = path.with_name(f".{path.name}.part")
    try:
        with out_of_space(path):
            try:
                with os.fdopen(open_fresh(part), "wb") as file:
                    blocks_of(file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
                sync_directory(path.parent)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise SiteUnwritable(f"{path} could not be written", error.strerror or "unknown", "Check the disk") from error
