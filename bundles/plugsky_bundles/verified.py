"""The value that stands for "this metadata is what trusted people signed".

Only `verify.verify_metadata` makes one. Its entries fix the digest of every file and chunk; the payload itself has not
been read: whoever reads it compares it with these digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from plugsky_bundles.format import Chunk, FileEntry, encode_chunk_list
from plugsky_bundles.media import Bundle
from plugsky_bundles.media_order import Contents
from plugsky_bundles.metadata import Listed
from plugsky_bundles.since import Since
from plugsky_bundles.state import TrustState
from plugsky_bundles.walk import Anchor


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that signed, and what the root calls it ("" when it has no name)."""

    keyid: str
    name: str


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """`expires` is the earliest date in it; `sealed_at` its own, `time` the newest time that can be proved (both UTC).

    `signers` by role name; `evidence` are the files outside the targets; `lists` the chunk lists by target path;
    `contents` what lies on the media, in order;
    `checks` says in order what was checked; `anchor` is what it was verified against, `state` the trust state once it
    is accepted; `roots` are the fingerprints of all roots that lead to its own.

    A delta says with `since` what it builds on; `absent` are the digests of the blobs (chunks and chunk lists) that its
    files need and the media does not hold: they must come from the site. Both are empty for a full bundle. `metadata`
    holds the bytes of the snapshot, of targets and of each role file by role, and those of the list of revocations by
    its path, wherever they were read from.
    """

    bundle: Bundle
    channel: str
    version: int
    bundle_id: str
    content_id: str
    root_fingerprint: str
    signers: Mapping[str, tuple[Signer, ...]]
    expires: datetime
    sealed_at: datetime
    time: datetime
    entries: Mapping[str, FileEntry] = field(repr=False)
    evidence: Mapping[str, Listed] = field(repr=False)
    lists: Mapping[str, Chunk] = field(repr=False)
    contents: Contents = field(repr=False)
    custodians: frozenset[str]
    roots: frozenset[str]
    anchor: Anchor = field(repr=False)
    checks: tuple[str, ...]
    state: TrustState = field(repr=False)
    metadata: Mapping[str, bytes] = field(repr=False)
    since: Since | None = None
    absent: frozenset[str] = field(default=frozenset(), repr=False)

    def copies(self) -> Iterator[tuple[str, bytes]]:
        """What `trusted_copies.keep` keeps once this is accepted: the bytes of metadata and chunk lists by digest."""
        for data in self.metadata.values():
            yield hashlib.sha256(data).hexdigest(), data
        for path, chunk_list in self.lists.items():
            yield chunk_list.sha256, encode_chunk_list(self.entries[path].chunks)
