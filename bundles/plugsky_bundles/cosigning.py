"""Signatures of several people under one content: which are good, and those of copies joined. Pure.

People sign copies on machines that never meet. A signature counts only over the very content that lies here, by a key
that may give it, and only when it fits; anything else refuses the whole copy by name, and nothing of it is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tuf.api.metadata import Metadata, Root

from plugsky_bundles.errors import OtherContent, SignatureInvalid, SignatureUnknown
from plugsky_bundles.metadata import MAX_SIGNATURES
from plugsky_bundles.strict_json import malformed


def good_signatures(delegators: Collection[Root], role: str, metadata: Metadata[Any], what: str) -> frozenset[str]:
    """The keyids that signed, however few. Raises SignatureUnknown or SignatureInvalid."""
    known = {keyid for delegator in delegators for keyid in delegator.roles[role].keyids}
    good: set[str] = set()
    for delegator in delegators:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        good |= result.signed.keys()
    for keyid in metadata.signatures:
        if keyid not in known:
            raise SignatureUnknown(
                f"{what} carries an unknown signature", f"key {keyid} may not sign {role}", "Do not use that copy"
            )
        if keyid not in good:
            raise SignatureInvalid(
                f"{what} carries a signature that does not fit",
                f"key {keyid} signed something else, or the signature was changed",
                "Do not use that copy; have its holder sign a good one",
            )
    return frozenset(good)


def join(
    target: Metadata[Any],
    copies: Mapping[str, Metadata[Any]],
    delegators: Collection[Root],
    role: str,
    what: str,
) -> tuple[str, ...]:
    """Add the signatures of `copies` (by what to call each) to `target`, and say whose are new, sorted.

    Everything is checked before anything is added. Raises OtherContent, SignatureUnknown, SignatureInvalid, or
    MalformedMetadata for more signatures than the format allows.
    """
    good_signatures(delegators, role, target, what)
    joined = dict(target.signatures)
    for name, copy in copies.items():
        if copy.signed_bytes != target.signed_bytes:
            raise OtherContent(
                f"{name} is of something else",
                f"what is signed there is not what {what} says",
                "Merge copies of the same thing only; ask who made that copy",
            )
        good_signatures(delegators, role, copy, name)
        for keyid, signature in copy.signatures.items():
            joined.setdefault(keyid, signature)
    if len(joined) > MAX_SIGNATURES:
        raise malformed(what, f"it would carry {len(joined)} signatures, the limit is {MAX_SIGNATURES}")
    added = tuple(sorted(joined.keys() - target.signatures.keys()))
    target.signatures.clear()
    target.signatures.update(sorted(joined.items()))
    return added
