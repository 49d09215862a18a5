"""A lost key of a site, an approver or a courier, replaced by the people of the root: request -> statement -> applied.

The site writes a request: which key goes, which comes, and the number of this change. The holders of root keys sign it
on their machines, as they sign a root (copies merge). The site applies it when the threshold of the root role of the
root that it trusts has signed. The number, `serial`, is one more than that of the last statement applied there, and
the request names the site by its key: so a statement is good for one site and one time. It does what it says and no
more: a key goes, and one comes, in the role that is named. After `expires` it is no longer applied.

A DSSE envelope of type `application/vnd.plugsky.reset+json`, with no signature at first, over canonical JSON
`{"approvals_required", "at", "expires", "new", "old", "people", "role", "schema": "plugsky.reset/1", "serial", "site",
"threshold"}`: `new` is a key card or null, `old` a keyid or null, `people` the public keys of the root role by keyid;
they are there so that a signer's machine can check signatures, and the site counts by its own root alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Signer, SSlibKey
from tuf.api.metadata import Root

from plugsky_bundles import dsse, keys
from plugsky_bundles.atomic import write_file
from plugsky_bundles.enrolment import ENROLLED_ROLES, MAX_KEYS, SITE, Enrolled
from plugsky_bundles.errors import MetadataExpired, OtherContent, Rollback, ThresholdNotMet
from plugsky_bundles.format import is_sha256
from plugsky_bundles.key_cards import KeyCard
from plugsky_bundles.plain_files import read_plain
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp

RESET_TYPE: Final = "application/vnd.plugsky.reset+json"
RESET_SCHEMA: Final = "plugsky.reset/1"
MAX_RESET: Final = 131_072
VALID: Final = timedelta(days=30)
_FIELDS: Final = frozenset(
    {"schema", "site", "serial", "role", "old", "new", "approvals_required", "people", "threshold", "at", "expires"}
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a statement changes at a site: without `old`, with `new`, and `approvals_required` from then on."""

    site: str
    serial: int
    role: str
    old: str | None
    new: KeyCard | None
    approvals_required: int

    def __str__(self) -> str:
        """Which key goes and which comes, in words: what people read before they sign."""
        comes = None if self.new is None else f"{self.new.name} (key {self.new.keyid[:16]})"
        goes = None if self.old is None else f"key {self.old[:16]}"
        if comes is not None and goes is not None:
            return f"as {self.role}, {comes} in place of {goes}"
        if comes is not None:
            return f"{comes} is added as {self.role}, and nobody goes"
        return f"{goes or 'nobody'} is removed as {self.role}, and nobody comes"


@dataclass(frozen=True, slots=True)
class Reset:
    """A request or statement: what it changes, who may sign, until when it is applied, and the envelope with the
    signatures so far."""

    change: Change
    people: Mapping[str, SSlibKey]
    threshold: int
    expires: datetime
    joint: dsse.Joint

    @property
    def missing(self) -> int:
        """How many more must sign."""
        return max(0, self.threshold - len(self.joint.signatures))

    def signed_by(self, signers: Iterable[Signer]) -> Reset:
        """With the signatures of these, who must be among `people`."""
        return replace(self, joint=self.joint.signed_by(signers))

    def to_json(self) -> bytes:
        return encode(self.joint.to_dict())


def request(change: Change, root: Root, now: datetime, valid: timedelta = VALID) -> Reset:
    """The request for `change`, to be signed by the people of `root`, and applied within `valid` of `now`."""
    people = people_of(root)
    threshold = root.roles["root"].threshold
    payload = {
        "schema": RESET_SCHEMA,
        "site": change.site,
        "serial": change.serial,
        "role": change.role,
        "old": change.old,
        "new": None if change.new is None else change.new.to_dict(),
        "approvals_required": change.approvals_required,
        "people": {keyid: keys.public_dict(key) for keyid, key in people.items()},
        "threshold": threshold,
        "at": stamp(now),
        "expires": stamp(now + valid),
    }
    expires = parse_stamp(payload["expires"], "The request")
    return Reset(change, people, threshold, expires, dsse.Joint(RESET_TYPE, encode(payload), {}))


def people_of(root: Root) -> dict[str, SSlibKey]:
    """The keys of the root role by keyid. The root has been checked, so they are of our schemes."""
    found = {keyid: root.keys[keyid] for keyid in root.roles["root"].keyids}
    return {keyid: SSlibKey(keyid, k.keytype, k.scheme, dict(k.keyval)) for keyid, k in found.items()}


def from_json(data: bytes, what: str) -> Reset:
    """Read a request or statement; every signature on it is checked against the people that it names.

    Raises MalformedMetadata, BadKey, SignatureUnknown or SignatureInvalid.
    """
    joint = dsse.open_joint(parse_object(data, what, limit=MAX_RESET), RESET_TYPE)
    said = parse_object(joint.payload, what, limit=MAX_RESET)
    if set(said) != _FIELDS or said["schema"] != RESET_SCHEMA or not is_canonical(joint.payload, said):
        raise malformed(what, f"it is not a {RESET_SCHEMA}")
    numbers = (said["serial"], said["approvals_required"], said["threshold"])
    if not all(type(number) is int and 0 <= number <= MAX_KEYS * MAX_KEYS for number in numbers):
        raise malformed(what, "its numbers are not usable")
    if said["role"] not in ENROLLED_ROLES or not is_sha256(said["site"]):
        raise malformed(what, "its role or its site is not usable")
    if (said["old"] is not None and not is_sha256(said["old"])) or not isinstance(said["people"], dict):
        raise malformed(what, "its keys are not usable")
    if said["role"] == SITE and (said["old"] != said["site"] or said["new"] is None):
        raise malformed(what, "of a site, its own key goes and another one comes")
    parse_stamp(said["at"], what)
    expires = parse_stamp(said["expires"], what)
    people = {keyid: _person(keyid, key, what) for keyid, key in said["people"].items()}
    new = None if said["new"] is None else KeyCard.from_dict(said["new"], what)
    change = Change(said["site"], said["serial"], said["role"], said["old"], new, said["approvals_required"])
    joint.check(people)
    return Reset(change, people, said["threshold"], expires, joint)


def read(path: Path) -> Reset:
    """The request or statement at `path`. Raises NotFound, and what `from_json` raises."""
    return from_json(read_plain(path, MAX_RESET, "Check the path of the statement"), f"{path}")


def write(path: Path, reset: Reset) -> None:
    write_file(path, reset.to_json())


def merge(target: Reset, copies: Mapping[str, Reset]) -> Reset:
    """With the signatures of copies, by what to call each. Raises OtherContent for one of another statement."""
    signatures = dict(target.joint.signatures)
    for name, copy in copies.items():
        if copy.joint.payload != target.joint.payload:
            raise OtherContent(
                f"{name} is of something else", "it is not the same request", "Merge copies of one request only"
            )
        for keyid, signature in copy.joint.signatures.items():
            signatures.setdefault(keyid, signature)
    joint = dsse.Joint(RESET_TYPE, target.joint.payload, dict(sorted(signatures.items())))
    return replace(target, joint=joint)


def check(reset: Reset, root: Root, *, revoked: Collection[str] = ()) -> Change:
    """What a statement changes, if the people of `root` signed it. The people that it names itself do not count.

    A signature by a key that is `revoked` does not count either.

    Raises SignatureUnknown, SignatureInvalid or ThresholdNotMet.
    """
    reset.joint.check(people_of(root))
    role = root.roles["root"]
    good = reset.joint.signatures.keys() - set(revoked)
    if len(good) < role.threshold:
        raise ThresholdNotMet(
            "The statement is signed by too few",
            f"{len(good)} of the {role.threshold} signatures that root needs",
            "Have more holders of root keys run `plugsky trust sign` on it",
        )
    return reset.change


def check_date(reset: Reset, now: datetime) -> None:
    """Refuse a statement that was signed for an earlier time. Raises MetadataExpired."""
    if now >= reset.expires:
        raise MetadataExpired(
            "The statement is too old to be applied",
            f"it was good until {stamp(reset.expires)}, and it is {stamp(now)} here",
            "Request a new one: plugsky trust reset request",
        )


def check_serial(change: Change, site: str, enrolled: Enrolled) -> None:
    """Refuse a statement for another site, or one that was used or overtaken. Raises OtherContent or Rollback."""
    if change.site != site:
        raise OtherContent(
            "The statement is for another site", f"it names {change.site}, this one is {site}", "Apply it there"
        )
    if change.serial != enrolled.serial + 1:
        raise Rollback(
            "The statement is not the next one here",
            f"it has number {change.serial}, and {enrolled.serial} were applied: each is used once",
            "Request a new one: plugsky trust reset request",
        )


def _person(keyid: str, key: Any, what: str) -> SSlibKey:
    found = keys.public_from_dict(key)
    if found.keyid != keyid:
        raise malformed(what, f"the key under {keyid!r} is {found.keyid}")
    return found
