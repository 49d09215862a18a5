"""What of a bundle's evidence goes into a generation: small files, the custody log first; the rest stays on the media.

At most 16 MiB a file and 64 MiB in all, each read whole into memory once; the shortest go first. What stays behind is
named in the provenance with its length and digest, so that what lies on the media can be told to be it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from plugsky_bundles.errors import RECOPY, DigestMismatch
from plugsky_bundles.format import CUSTODY, FileEntry
from plugsky_bundles.verified import VerifiedBundle

MAX_FILE: Final = 16 << 20
MAX_ALL: Final = 64 << 20
_FOLDER: Final = f"{CUSTODY.partition('/')[0]}/"


def choose(verified: VerifiedBundle) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...]]:
    """The evidence that goes into a generation, and that which stays on the media."""
    there = [FileEntry(name, e.length, e.sha256) for name, e in verified.evidence.items() if name.startswith(_FOLDER)]
    taken, left, room = [], [], MAX_ALL
    for entry in sorted(there, key=lambda entry: (entry.path != CUSTODY, entry.length, entry.path)):
        if entry.length <= min(MAX_FILE, room):
            taken.append(entry)
            room -= entry.length
        else:
            left.append(entry)
    return tuple(taken), tuple(sorted(left, key=lambda entry: entry.path))


def contents(verified: VerifiedBundle, taken: Iterable[FileEntry]) -> Iterator[tuple[str, bytes]]:
    """The evidence that was chosen, one file after the other as it was signed. Raises DigestMismatch."""
    for entry in taken:
        content = verified.bundle.read(entry.path, limit=entry.length)
        if len(content) != entry.length or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DigestMismatch(f"{entry.path} was changed", "its SHA-256 differs", RECOPY)
        yield entry.path, content
