"""Removing what a site has, and never anything else.

What goes is reached by its name in a directory that was opened without following a link, and nothing inside of it is
followed either: of a link, the link goes. A generation loses its mark of completeness before anything else, and that
is on disk before the rest goes, so that half of one is never taken for a whole one.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plugsky.fleet.assembly import COMPLETE

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_generation(generations: Path, number: int) -> None:
    """Remove the generation of that number, or what lies in its place. Raises OSError."""
    name = str(number)
    with _opened(generations) as handle:
        try:
            folder = os.open(name, _DIRECTORY, dir_fd=handle)
        except NotADirectoryError:
            os.unlink(name, dir_fd=handle)
            return
        try:
            with suppress(FileNotFoundError):
                os.unlink(COMPLETE, dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(folder)
        shutil.rmtree(name, dir_fd=handle)


def remove_file(directory: Path, name: str) -> None:
    """Remove one file, or a link in its place. Raises OSError."""
    with _opened(directory) as handle:
        os.unlink(name, dir_fd=handle)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """The handle of a directory; what changed in it lasts when the block ends well."""
    handle = os.open(directory, _DIRECTORY)
    try:
        yield handle
        os.fsync(handle)
    finally:
        os.close(handle)
