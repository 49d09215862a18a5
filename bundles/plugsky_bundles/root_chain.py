"""The chain of roots on the media: from the root that is trusted to the one that counts.

Whoever carries the media chooses what lies there as roots, and all of it is read before any trusted key has signed
anything. So, in order:

1. at most 256 roots without gaps, of at most 8 MiB together; they are hashed one at a time and not looked into;
2. the anchor is one of them by its digest, or a site's root is the one right before the first, or newer than the last;
   otherwise that is the end;
3. each is read again, one at a time: its form, its version, the signatures of its own keys and of those of the one
   before. Of each nothing is kept but its fingerprint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from tuf.api.metadata import Metadata, Root

from plugsky_bundles.errors import RECOPY, DigestMismatch, MetadataMissing, UntrustedRoot
from plugsky_bundles.format import MAX_ROOT, MIB
from plugsky_bundles.metadata import check_root, count_signatures, read_metadata
from plugsky_bundles.state import TrustState
from plugsky_bundles.strict_json import malformed

MAX_ROOTS: Final = 256
MAX_ROOT_CHAIN: Final = 8 * MIB
"""Of all roots on the media together, in bytes."""

Anchor = TrustState | str
"""What is trusted: the state of a site, or on first use the fingerprint of a root."""

_ROOT_NAME = re.compile(r"([1-9][0-9]{0,9})\.root\.json", re.ASCII)


class Reader(Protocol):
    """The files of `metadata/` by bare name."""

    @property
    def names(self) -> Collection[str]: ...

    def read(self, name: str, limit: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RootChain:
    """The root that counts and its bytes, `names` of the files that were read, and who signed it.

    `roots` are the fingerprints that lead to it.
    """

    root: Root
    root_bytes: bytes
    names: tuple[str, ...]
    signers: tuple[str, ...]
    roots: frozenset[str] = frozenset()


def fingerprint(root: bytes) -> str:
    """What the paper says of a root: SHA-256 of its file, so that `sha256sum` can check it."""
    return hashlib.sha256(root).hexdigest()


def read_roots(reader: Reader, anchor: Anchor) -> RootChain:
    """Read and judge the roots of a bundle. Raises UntrustedRoot, MetadataMissing, or what is wrong with one."""
    numbers = sorted(int(match[1]) for name in reader.names if (match := _ROOT_NAME.fullmatch(name)))
    if not numbers:
        raise MetadataMissing("The bundle has no root", "metadata/1.root.json is missing", RECOPY)
    if len(numbers) > MAX_ROOTS or numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise UntrustedRoot("The chain of roots has gaps", f"versions {numbers[:10]} do not follow each other", RECOPY)
    prints = _fingerprints(reader, numbers)
    own = _own_root(anchor) if isinstance(anchor, TrustState) else None
    trusted = fingerprint(anchor.root) if isinstance(anchor, TrustState) else anchor
    follows = own is not None and own.version == numbers[0] - 1
    newer = own is not None and own.version > numbers[-1]
    anchored = follows or trusted in prints
    if not anchored and not newer:
        raise UntrustedRoot(
            "The bundle is not signed for here",
            f"its root {prints[0]} is not the one that is trusted",
            "Compare the fingerprint with the one on paper",
        )
    chain = _judged(reader, numbers, prints, own if follows else None)
    roots = frozenset(prints) if anchored else frozenset()
    if isinstance(anchor, TrustState):
        roots |= {trusted}
        if own is not None and newer:
            return RootChain(own, anchor.root, chain.names, (), roots)
    return replace(chain, roots=roots)


def _judged(reader: Reader, numbers: Sequence[int], prints: Sequence[str], before: Root | None) -> RootChain:
    """Judge one root after the other, and keep the last."""
    for number, printed in zip(numbers, prints, strict=True):
        name = f"{number}.root.json"
        data = reader.read(name, MAX_ROOT)
        if fingerprint(data) != printed:
            raise DigestMismatch(f"metadata/{name} was changed", "it changed while it was read", RECOPY)
        root, signers = _root(data, number, before, f"metadata/{name}")
        before = root
    return RootChain(root, data, tuple(f"{number}.root.json" for number in numbers), signers)


def _fingerprints(reader: Reader, numbers: Iterable[int]) -> list[str]:
    """The fingerprint of each root, read one at a time and not looked into: nobody says yet that it is trusted."""
    prints, total = [], 0
    for number in numbers:
        data = reader.read(f"{number}.root.json", MAX_ROOT)
        prints.append(fingerprint(data))
        total += len(data)
        if total > MAX_ROOT_CHAIN:
            raise UntrustedRoot(
                "The chain of roots is too long", f"its files have more than {MAX_ROOT_CHAIN} bytes together", RECOPY
            )
    return prints


def _root(data: bytes, number: int, before: Root | None, what: str) -> tuple[Root, tuple[str, ...]]:
    metadata: Metadata[Root] = read_metadata(data, Root, what)
    root = metadata.signed
    if root.version != number:
        raise malformed(what, f"it says that it is version {root.version}")
    check_root(root, what)
    return root, count_signatures([root] if before is None else [before, root], "root", metadata, what)


def _own_root(state: TrustState) -> Root:
    return read_metadata(state.root, Root, "The trusted root of this site").signed
