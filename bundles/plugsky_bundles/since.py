"""What a delta leaves out, and for whom: the field `x-plugsky-since` of a sealed snapshot and its list of blobs. Pure.

A delta is a later version of a channel made for sites that hold an earlier one. Its snapshot says

* `bundle_id`: the bundle that it completes;
* `receipt`: SHA-256 of the receipt that it was made by; not there when no receipt was needed (revocations only);
* `roles`: the role files that are not on the media, sorted. No blob that only they list is on the media either;
* `absent`: length and SHA-256 of a blob with the digests of what the other roles list and the media does not hold
  (chunks and chunk lists); not there when nothing of theirs is missing.

**List of absent blobs**: binary, big-endian: `PLUGSKYA`, u32 version 1, u32 count, then 32 bytes per digest, strictly
ascending. Nothing may follow.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from plugsky_bundles.errors import BaseMissing, MalformedMetadata
from plugsky_bundles.format import ROLES, Chunk, is_sha256
from plugsky_bundles.strict_json import malformed

SINCE: Final = "x-plugsky-since"
MAX_ABSENT: Final = 2_000_000

_MAGIC: Final = b"PLUGSKYA"
_VERSION: Final = 1
_HEADER = struct.Struct(">8sII")
_DIGEST: Final = 32
MAX_ABSENT_LIST: Final = _HEADER.size + MAX_ABSENT * _DIGEST


@dataclass(frozen=True, slots=True)
class Since:
    """The field as a value; `absent` is the blob that holds the list."""

    bundle_id: str
    receipt: str | None = None
    roles: tuple[str, ...] = ()
    absent: Chunk | None = None

    def to_dict(self) -> dict[str, Any]:
        """The field as it is written; `since_of` gives an equal value back."""
        members: dict[str, Any] = {"bundle_id": self.bundle_id, "roles": list(self.roles)}
        if self.receipt is not None:
            members["receipt"] = self.receipt
        if self.absent is not None:
            members["absent"] = {"length": self.absent.length, "sha256": self.absent.sha256}
        return members


def since_of(members: Any, what: str) -> Since | None:
    """Read the field; None when there is none, which is the case of a full bundle. Raises MalformedMetadata."""
    if members is None:
        return None
    if not isinstance(members, dict) or not {"bundle_id", "roles"} <= members.keys() <= _FIELDS:
        raise malformed(what, "what it says of the bundle before has other fields than the format's")
    roles = members["roles"]
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise malformed(what, "the roles that it leaves out are not a list of names")
    if roles != sorted(set(roles)) or not set(roles) <= set(ROLES):
        raise malformed(what, "the roles that it leaves out are not sorted names of roles, each once")
    if not is_sha256(members["bundle_id"]) or ("receipt" in members and not is_sha256(members["receipt"])):
        raise malformed(what, "the bundle before or its receipt is not named by a SHA-256")
    absent = _absent_blob(members["absent"], what) if "absent" in members else None
    return Since(members["bundle_id"], members.get("receipt"), tuple(roles), absent)


def encode_absent(digests: Collection[str]) -> bytes:
    """The binary list of absent blobs (see the module's text); the inverse of `decode_absent`."""
    ordered = sorted(set(digests))
    if not 1 <= len(ordered) <= MAX_ABSENT:
        raise _bad_list(f"{len(ordered)} digests, allowed are 1 to {MAX_ABSENT}")
    return _HEADER.pack(_MAGIC, _VERSION, len(ordered)) + b"".join(bytes.fromhex(digest) for digest in ordered)


def decode_absent(data: bytes) -> frozenset[str]:
    """Decode a list exactly: another magic, version, count, order or size is MalformedMetadata."""
    if len(data) < _HEADER.size:
        raise _bad_list(f"{len(data)} bytes are too few")
    magic, version, count = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise _bad_list("it is not a version 1 list of absent blobs")
    if not 1 <= count <= MAX_ABSENT or len(data) != _HEADER.size + count * _DIGEST:
        raise _bad_list(f"{len(data)} bytes cannot hold the {count} digests it announces")
    return ascending_digests(data[_HEADER.size :], "The list of absent blobs")


def ascending_digests(data: bytes, what: str) -> frozenset[str]:
    """Digests of 32 bytes each, which must be strictly ascending. Raises MalformedMetadata."""
    if len(data) % _DIGEST:
        raise malformed(what, f"{len(data)} bytes are not a whole number of digests")
    found: set[str] = set()
    last = b""
    for at in range(0, len(data), _DIGEST):
        digest = data[at : at + _DIGEST]
        if digest <= last:
            raise malformed(what, "its digests are not in ascending order, each once")
        found.add(digest.hex())
        last = digest
    return frozenset(found)


def base_missing(what: str, since: Since | None) -> BaseMissing:
    """The error for a part of a delta that is not on the media and not held here."""
    base = "an earlier bundle" if since is None else f"bundle {since.bundle_id}"
    return BaseMissing(
        f"{what} is not on the media, and no copy is held here",
        f"this is a delta for sites that have {base}; without it there is no judging it",
        "Name a site that has it with --root, or that bundle's directory with --base; or ask for a full bundle",
    )


def _absent_blob(named: Any, what: str) -> Chunk:
    if (
        not isinstance(named, dict)
        or set(named) != {"length", "sha256"}
        or not is_sha256(named["sha256"])
        or type(named["length"]) is not int
        or not _HEADER.size < named["length"] <= MAX_ABSENT_LIST
    ):
        raise malformed(what, "it does not name its list of absent blobs by length and sha256")
    return Chunk(named["sha256"], named["length"])


def _bad_list(why: str) -> MalformedMetadata:
    return malformed("The list of absent blobs", why)


_FIELDS: Final = {"bundle_id", "receipt", "roles", "absent"}
