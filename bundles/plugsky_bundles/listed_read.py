"""The bytes of one listed file of a bundle, compared with what is listed while they pass.

Whoever takes all blocks without an error has had exactly the listed bytes. The last block is out before the digest is
known, so nothing that was made of them counts until the iteration has ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from plugsky_bundles.errors import RECOPY, DigestMismatch
from plugsky_bundles.format import MIB
from plugsky_bundles.media import Bundle, unreadable
from plugsky_bundles.media_order import Contents, Part

BLOCK: Final = MIB


def blocks(bundle: Bundle, part: Part, contents: Contents) -> Iterator[memoryview]:
    """The bytes of `part`, each block valid until the next one.

    Raises DigestMismatch (naming the file that a blob is part of), BlobMissing, MetadataMissing, UnlistedFile or
    MediaUnreadable.
    """
    digest, left, what = hashlib.sha256(), part.length, contents.whose(part.name)
    buffer = bytearray(min(BLOCK, part.length + 1))
    with bundle.open(part.name) as file:
        while True:
            with memoryview(buffer) as view:
                try:
                    count = file.readinto(view)
                except OSError as error:
                    raise unreadable(what, error) from None
                if count > left:
                    raise DigestMismatch(f"{what} is too long", f"it has more than {part.length} bytes", RECOPY)
                if not count:
                    break
                left -= count
                with view[:count] as block:
                    digest.update(block)
                    yield block
    if left:
        raise DigestMismatch(f"{what} ends early", f"{left} of {part.length} bytes are missing", RECOPY)
    if digest.hexdigest() != part.sha256:
        raise DigestMismatch(f"{what} was changed", f"its bytes have the SHA-256 {digest.hexdigest()}", RECOPY)
