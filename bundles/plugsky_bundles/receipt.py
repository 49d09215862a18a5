"""Receipts: a site signs what it holds, so that a delta can be made for it; and a builder believes no other word on it.

A receipt is a DSSE envelope of canonical JSON (`docs/formats.md`). `make` signs one with the key of the site; `read`
opens one with the keys of enrolled sites; `check_base` compares it with what was sealed here before. What a receipt
says is only ever used to leave something out: a site that lied, or changed since, refuses the delta (BaseMissing).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, Final

from securesystemslib.signer import CryptoSigner, SSlibKey

from plugsky_bundles import dsse
from plugsky_bundles.errors import MixAndMatch, Rollback, SignatureUnknown, UntrustedRoot
from plugsky_bundles.format import ROLES, Chunk, check_channel, check_version, content_id, is_sha256
from plugsky_bundles.kept import Kept
from plugsky_bundles.since import ascending_digests
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp

PAYLOAD_TYPE: Final = "application/vnd.plugsky.receipt+json"
SCHEMA: Final = "plugsky.receipt/1"
MAX_RECEIPT: Final = 16 << 20
MAX_BLOBS: Final = 1 << 18
_WHAT: Final = "The receipt"
_MAX_WORD: Final = 64


@dataclass(frozen=True, slots=True)
class Held:
    """A role file that the site keeps a copy of."""

    version: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a site says that it holds. `site` is the keyid that signed; `at` in UTC; `blobs` are digests.

    `generation` was made of the bundle; `python` and `machine` are what its parts must be made for.
    """

    site: str
    at: datetime
    channel: str
    version: int
    bundle_id: str
    content_id: str
    generation: int
    root_fingerprint: str
    roles: Mapping[str, Held]
    python: str
    machine: str
    blobs: frozenset[str] = field(repr=False)


def of(
    kept: Kept,
    blobs: Iterable[Chunk],
    *,
    site: str,
    at: datetime,
    root_fingerprint: str,
    generation: int,
    python: str,
    machine: str,
) -> Receipt:
    """What the site with that keyid holds: the newest bundle that it accepted, and the `blobs` in its store."""
    return Receipt(
        site=site,
        at=at,
        channel=kept.channel,
        version=kept.version,
        bundle_id=kept.bundle_id,
        content_id=content_id(kept.entries.values()),
        generation=generation,
        root_fingerprint=root_fingerprint,
        roles={role: Held(kept.roles[role].signed.version, kept.listed[role].sha256) for role in ROLES},
        python=python,
        machine=machine,
        blobs=longest(chain(blobs, kept.lists.values())),
    )


def longest(blobs: Iterable[Chunk]) -> frozenset[str]:
    """The digests of at most as many blobs as a receipt may name, the longest first: they are worth most."""
    lengths = {blob.sha256: blob.length for blob in blobs}
    if len(lengths) <= MAX_BLOBS:
        return frozenset(lengths)
    ordered = sorted(lengths, key=lambda digest: (-lengths[digest], digest))
    return frozenset(ordered[:MAX_BLOBS])


def file_name(receipt: Receipt) -> str:
    """What the file of a receipt is called in `plugsky-returns/`."""
    return f"{receipt.channel}-{receipt.version}-{receipt.site[:8]}.receipt.json"


def make(receipt: Receipt, signer: CryptoSigner) -> bytes:
    """The file of a receipt. Raises ValueError when `signer` is not the site's key or a bound is exceeded."""
    if signer.public_key.keyid != receipt.site or len(receipt.blobs) > MAX_BLOBS:
        msg = "a receipt is signed by its own site, and names a bounded number of blobs"
        raise ValueError(msg)
    payload = {
        "schema": SCHEMA,
        "site": receipt.site,
        "at": stamp(receipt.at),
        "channel": receipt.channel,
        "version": receipt.version,
        "bundle_id": receipt.bundle_id,
        "content_id": receipt.content_id,
        "generation": receipt.generation,
        "root_fingerprint": receipt.root_fingerprint,
        "roles": {role: {"version": held.version, "sha256": held.sha256} for role, held in receipt.roles.items()},
        "python": receipt.python,
        "machine": receipt.machine,
        "blobs": base64.b64encode(bytes.fromhex("".join(sorted(receipt.blobs)))).decode("ascii"),
    }
    return encode(dsse.sign(signer, PAYLOAD_TYPE, encode(payload)))


def read(data: bytes, sites: Mapping[str, SSlibKey]) -> Receipt:
    """The receipt in `data`, if one of `sites` (keys of enrolled sites by keyid) signed it.

    Raises MalformedMetadata, SignatureUnknown or SignatureInvalid.
    """
    envelope = parse_object(data, _WHAT, limit=MAX_RECEIPT)
    if not is_canonical(data, envelope):
        raise malformed(_WHAT, "it is not written in its canonical form")
    claimed = dsse.keyid_of(envelope, PAYLOAD_TYPE)
    key = sites.get(claimed)
    if key is None:
        raise SignatureUnknown(
            "The receipt is by a site that is not enrolled here",
            f"the key with id {claimed} signed it, and {len(sites)} sites are enrolled",
            "Have the site write its card (`plugsky trust card --out DIR`, there) and tell the card's fingerprint; "
            "`plugsky trust enrol CARD --role site` enrols it here",
        )
    receipt = _receipt(dsse.verify(envelope, key, PAYLOAD_TYPE))
    if receipt.site != key.keyid:
        raise malformed(_WHAT, f"it speaks for site {receipt.site} and is signed by {key.keyid}")
    return receipt


def check_base(receipt: Receipt, channel: str, sealed: Mapping[int, str], roots: Iterable[bytes]) -> None:
    """Refuse a receipt that a delta of `channel` cannot build on.

    `sealed`: the bundle ids that were sealed here for the channel, by version; `roots`: all roots of the trust
    directory. Raises MixAndMatch, UntrustedRoot or Rollback.
    """
    if receipt.channel != channel:
        raise MixAndMatch(
            "The receipt is of another channel",
            f"it says what the site holds of {receipt.channel!r}, not of {channel!r}",
            "Name the receipt of this channel",
        )
    if receipt.root_fingerprint not in {hashlib.sha256(root).hexdigest() for root in roots}:
        raise UntrustedRoot(
            "The receipt is of a site that trusts another root",
            f"its root {receipt.root_fingerprint} is none of this trust directory's",
            "Use the trust directory whose bundles the site installs",
        )
    newest = max(sealed, default=0)
    if receipt.version > newest:
        raise Rollback(
            "The receipt is newer than what was sealed here",
            f"the site has version {receipt.version} of {channel}, the newest known here is {newest}",
            "Use the newest copy of the trust directory",
        )
    if sealed.get(receipt.version) != receipt.bundle_id:
        raise MixAndMatch(
            "The receipt names a bundle that was never sealed here",
            f"version {receipt.version} of {channel} is {sealed.get(receipt.version, 'unknown')} here,"
            f" the site has {receipt.bundle_id}",
            "Build a full bundle for that site",
        )


def _receipt(payload: bytes) -> Receipt:
    members = parse_object(payload, _WHAT, limit=MAX_RECEIPT)
    if not is_canonical(payload, members):
        raise malformed(_WHAT, "what it says is not written in its canonical form")
    if set(members) != {"schema", *Receipt.__slots__} or members["schema"] != SCHEMA:
        raise malformed(_WHAT, f"it is not a {SCHEMA}")
    for name in ("site", "bundle_id", "content_id", "root_fingerprint"):
        if not is_sha256(members[name]):
            raise malformed(_WHAT, f"its {name} is not a SHA-256")
    for name in ("python", "machine"):
        if not isinstance(members[name], str) or not 0 < len(members[name]) <= _MAX_WORD:
            raise malformed(_WHAT, f"its {name} is not a short word")
    return Receipt(
        site=members["site"],
        at=parse_stamp(members["at"], _WHAT),
        channel=check_channel(members["channel"]),
        version=check_version(members["version"]),
        bundle_id=members["bundle_id"],
        content_id=members["content_id"],
        generation=check_version(members["generation"]),
        root_fingerprint=members["root_fingerprint"],
        roles=_roles(members["roles"]),
        python=members["python"],
        machine=members["machine"],
        blobs=_blobs(members["blobs"]),
    )


def _roles(members: Any) -> dict[str, Held]:
    if not isinstance(members, dict) or not members.keys() <= set(ROLES):
        raise malformed(_WHAT, "its roles are not those of a bundle")
    roles = {}
    for role, held in members.items():
        if not isinstance(held, dict) or set(held) != {"version", "sha256"} or not is_sha256(held["sha256"]):
            raise malformed(_WHAT, f"what it says of {role} is not a version and a SHA-256")
        roles[role] = Held(check_version(held["version"]), held["sha256"])
    return roles


def _blobs(text: Any) -> frozenset[str]:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode("ascii") != text:
        raise malformed(_WHAT, "its blobs are not canonical base64")
    found = ascending_digests(data, "The list of blobs in the receipt")
    if len(found) > MAX_BLOBS:
        raise malformed(_WHAT, f"it names {len(found)} blobs, the limit is {MAX_BLOBS}")
    return found
