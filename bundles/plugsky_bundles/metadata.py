"""One TUF metadata file: read with bounds, and its signatures counted. Pure.

Before python-tuf sees a byte: size, UTF-8, depth, duplicate keys, number sizes (`strict_json`), canonical writing, at
most 32 signatures sorted by keyid in lower-case hex. Before a signature is counted: every key is named by its own hash
and written canonically (`keys.check_key`), every role's threshold is between 1 and the number of its keys.

Stricter than TUF, never looser: a signature by a key that the role does not name, or one that does not fit, refuses the
file even when enough others are good. A bundle is signed by its own people only; anything else is damage or an attempt.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Role, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from plugsky_bundles.errors import (
    RECOPY,
    BadKey,
    MalformedMetadata,
    MixAndMatch,
    SignatureInvalid,
    SignatureMissing,
    SignatureUnknown,
    ThresholdNotMet,
)
from plugsky_bundles.format import (
    MAX_FILE,
    MAX_ROOT,
    MAX_SEGMENTS,
    MAX_SNAPSHOT,
    MAX_TARGETS_METADATA,
    MAX_TIMESTAMP,
    ROLES,
    FileEntry,
    check_channel,
    check_evidence_path,
    check_version,
    is_sha256,
)
from plugsky_bundles.keys import check_key
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object
from plugsky_bundles.times import parse_stamp

FORMAT: Final = 1
MAX_SIGNATURES: Final = 32
MAX_KEYS: Final = 64
LIMITS: Final[Mapping[type[Signed], int]] = {
    Root: MAX_ROOT,
    Timestamp: MAX_TIMESTAMP,
    Snapshot: MAX_SNAPSHOT,
    Targets: MAX_TARGETS_METADATA,
}
ROLE_FILES: Final = tuple(f"{role}.json" for role in ("targets", *ROLES))

BUILT: Final = "x-plugsky-built"
CHANNEL: Final = "x-plugsky-channel"
EVIDENCE: Final = "x-plugsky-evidence"
FORMAT_FIELD: Final = "x-plugsky-format"
NAMES: Final = "x-plugsky-names"
TIME: Final = "x-plugsky-time"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,128}", re.ASCII)
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as signed metadata lists it: length in bytes and SHA-256."""

    length: int
    sha256: str


def read_metadata(data: bytes, kind: type[S], what: str) -> Metadata[S]:
    """Parse a metadata file of the given kind. `what` names it in errors. Raises MalformedMetadata."""
    members = parse_object(data, what, limit=LIMITS[kind])
    if not is_canonical(data, members):
        raise malformed(what, "it is not written in its canonical form")
    if set(members) != {"signatures", "signed"} or not isinstance(members["signed"], dict):
        raise malformed(what, "it does not have exactly signatures and signed")
    _check_signature_list(members["signatures"], what)
    signed = members["signed"]
    if signed.get("_type") != kind.type:
        raise malformed(what, f"it is {signed.get('_type')!r}, not {kind.type!r}")
    check_version(signed.get("version"))
    parse_stamp(signed.get("expires"), what)
    if kind is Root:
        _check_keys(signed.get("keys"), what)
    try:
        metadata = Metadata[S].from_bytes(data)
    except DeserializationError as error:
        raise malformed(what, f"python-tuf cannot read it ({error.__cause__})") from None
    if serialise(metadata) != data:
        raise malformed(what, "it holds something that python-tuf does not keep, so no signature would cover it")
    return metadata


def sign_with(metadata: Metadata[Any], signers: Iterable[Signer]) -> tuple[str, ...]:
    """Add the signatures that are not there yet, and say whose they are; keeps signatures sorted by keyid."""
    added = []
    for signer in signers:
        if signer.public_key.keyid not in metadata.signatures:
            metadata.sign(signer, append=True)
            added.append(signer.public_key.keyid)
    ordered = dict(sorted(metadata.signatures.items()))
    metadata.signatures.clear()
    metadata.signatures.update(ordered)
    return tuple(added)


def serialise(metadata: Metadata[Any]) -> bytes:
    """The one way that a metadata file is written."""
    return encode(metadata.to_dict())


def role_patterns(role: str) -> list[str]:
    """The TUF path patterns of a delegated role: everything under its own prefix (`*` stops at a slash)."""
    return ["/".join([role, *["*"] * depth]) for depth in range(1, MAX_SEGMENTS)]


def count_signatures(delegators: Collection[Root], role: str, metadata: Metadata[Any], what: str) -> tuple[str, ...]:
    """The keyids that signed, if each of `delegators` finds its threshold for `role` met and no signature is foreign.

    Two delegators is the case of a new root, which the old root's keys and its own must sign. Raises SignatureMissing,
    SignatureUnknown, SignatureInvalid or ThresholdNotMet.
    """
    if not metadata.signatures:
        raise SignatureMissing(f"{what} is not signed", "it carries no signature", _more_signatures(role))
    known = {keyid for delegator in delegators for keyid in delegator.roles[role].keyids}
    for keyid in metadata.signatures:
        if keyid not in known:
            raise SignatureUnknown(
                f"{what} carries an unknown signature", f"key {keyid} may not sign {role}", "Do not use it"
            )
    good: set[str] = set()
    results = [d.get_verification_result(role, metadata.signed_bytes, metadata.signatures) for d in delegators]
    for result in results:
        good |= result.signed.keys()
    for keyid in metadata.signatures:
        if keyid not in good:
            raise SignatureInvalid(
                f"{what} carries a signature that does not fit",
                f"key {keyid} signed other bytes: the file or the signature was changed",
                RECOPY,
            )
    for result in results:
        if not result.verified:
            raise ThresholdNotMet(
                f"{what} is signed by too few",
                f"{len(result.signed)} of the {result.threshold} signatures that {role} needs",
                _more_signatures(role),
            )
    return tuple(sorted(good))


def _more_signatures(role: str) -> str:
    """What to do about a missing signature: people sign releases only; the rest was signed before it travelled."""
    if role in (Root.type, Snapshot.type, Timestamp.type):
        return RECOPY
    return "Have more of its signers sign copies by `plugsky trust sign`; merge and seal them where it was built"


def check_root(root: Root, what: str) -> None:
    """Refuse a root whose keys are misnamed or doubled, or whose roles cannot be met or mean nothing."""
    if root.consistent_snapshot is not True:
        raise malformed(what, "it does not ask for consistent snapshots")
    _check_keys({keyid: key.to_dict() for keyid, key in root.keys.items()}, what)
    if not all(type(role.keyids) is list for role in root.roles.values()):
        raise malformed(what, "the keys of a role are not a list")
    used = {keyid for role in root.roles.values() for keyid in role.keyids}
    if used != root.keys.keys():
        raise BadKey(f"{what} has loose keys", "its roles and its list of keys do not match", "Do not use it")
    for name, role in root.roles.items():
        _check_threshold(role, name, what)
    key_names(root, what)


def key_names(root: Root, what: str) -> dict[str, str]:
    """What people call the keys: keyid to a short name; names are unique."""
    names = root.unrecognized_fields.get(NAMES, {})
    if (
        not isinstance(names, dict)
        or not names.keys() <= root.keys.keys()
        or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names.values())
        or len(set(names.values())) != len(names)
    ):
        raise malformed(what, "its names of keys are not usable")
    return dict(names)


def check_delegations(root: Root, targets: Targets, what: str) -> None:
    """Refuse top-level targets that do anything but delegate each role to the keys and threshold of targets."""
    if targets.unrecognized_fields.get(FORMAT_FIELD) != FORMAT:
        raise MalformedMetadata(
            f"{what} is of another bundle format",
            f"this version reads format {FORMAT}, not {targets.unrecognized_fields.get(FORMAT_FIELD)!r}",
            "Use a newer plugsky",
        )
    delegations = targets.delegations
    if targets.targets or delegations is None or delegations.roles is None:
        raise malformed(what, "it must list no files itself and delegate every role by name")
    if tuple(delegations.roles) != ROLES:
        raise malformed(what, f"it must delegate exactly {', '.join(ROLES)}, in this order")
    own = root.roles["targets"]
    keys = {keyid: root.keys[keyid].to_dict() for keyid in own.keyids}
    if {keyid: key.to_dict() for keyid, key in delegations.keys.items()} != keys:
        raise malformed(what, "its delegations use other keys than targets does")
    for name, role in delegations.roles.items():
        if type(role.threshold) is not int or (
            role.keyids,
            role.threshold,
            role.terminating,
            role.paths,
            role.unrecognized_fields,
        ) != (own.keyids, own.threshold, True, role_patterns(name), {}):
            raise malformed(what, f"its delegation of {name} differs from what the format fixes")


def check_common(signed: Signed, channel: str | None, what: str) -> str:
    """The channel that a file says it belongs to, refusing another than `channel`."""
    found = check_channel(signed.unrecognized_fields.get(CHANNEL))
    if channel is not None and found != channel:
        raise MixAndMatch(
            f"{what} is from another bundle",
            f"it belongs to channel {found!r}, the rest to {channel!r}",
            RECOPY,
        )
    return found


def listed(entry: Any, what: str) -> Listed:
    """Length and SHA-256 of a TUF MetaFile or TargetFile, which must have both and no other hash."""
    hashes, length = entry.hashes, entry.length
    if not isinstance(hashes, dict) or set(hashes) != {"sha256"} or not is_sha256(hashes["sha256"]):
        raise malformed(what, "it must list exactly one hash, SHA-256")
    if type(length) is not int or not 0 <= length <= MAX_FILE:
        raise malformed(what, f"the length {length!r} is out of range")
    return Listed(length, hashes["sha256"])


def file_entry(target: TargetFile, what: str) -> FileEntry:
    """A target as a `FileEntry` without its chunks, which stand in a blob."""
    found = listed(target, what)
    custom = target.unrecognized_fields.get("custom", {})
    if not isinstance(custom, dict):
        raise malformed(what, f"the custom data of {target.path!r} is not an object")
    return FileEntry(target.path, found.length, found.sha256, (), custom)


def evidence_of(members: Any, what: str) -> dict[str, Listed]:
    """The files outside the targets that a snapshot lists, by path relative to the bundle."""
    if not isinstance(members, dict):
        raise malformed(what, "it does not list the bundle's other files")
    evidence = {}
    for path, entry in members.items():
        check_evidence_path(path)
        if not isinstance(entry, dict) or set(entry) != {"length", "sha256"}:
            raise malformed(what, f"its entry of {path!r} must have exactly length and sha256")
        if type(entry["length"]) is not int or not 0 <= entry["length"] <= MAX_FILE or not is_sha256(entry["sha256"]):
            raise malformed(what, f"its entry of {path!r} is out of range")
        evidence[path] = Listed(entry["length"], entry["sha256"])
    return evidence


def _check_keys(keys: Any, what: str) -> None:
    if not isinstance(keys, dict) or not all(isinstance(key, dict) for key in keys.values()):
        raise malformed(what, "its keys are not objects by keyid")
    if len(keys) > MAX_KEYS:
        raise BadKey(f"{what} has too many keys", f"the limit is {MAX_KEYS}", "Do not use it")
    for keyid, key in keys.items():
        check_key(keyid, key)


def _check_threshold(role: Role, name: str, what: str) -> None:
    if type(role.threshold) is not int or not 1 <= role.threshold <= len(role.keyids) <= MAX_KEYS:
        raise malformed(what, f"the threshold {role.threshold!r} of {name} does not fit its {len(role.keyids)} keys")


def _check_signature_list(signatures: Any, what: str) -> None:
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        raise malformed(what, f"its signatures are not a list of at most {MAX_SIGNATURES}")
    keyids = []
    for entry in signatures:
        if (
            not isinstance(entry, dict)
            or set(entry) != {"keyid", "sig"}
            or not is_sha256(entry["keyid"])
            or not isinstance(entry["sig"], str)
            or _HEX.fullmatch(entry["sig"]) is None
        ):
            raise malformed(what, "a signature is not a keyid and lower-case hex")
        keyids.append(entry["keyid"])
    if keyids != sorted(set(keyids)):
        raise malformed(what, "its signatures are not sorted by keyid, each once")
