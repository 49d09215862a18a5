"""VerifiedBundle -> Approval: someone other than the installer says that this bundle may be installed.

An approval is a DSSE envelope of type `application/vnd.plugsky.approval+json` over canonical JSON
`{"at", "bundle_id", "by", "channel", "content_id", "root_fingerprint", "schema": "plugsky.approval/1", "version"}`,
signed with the key of an approver that the site enrolled (`enrolment`). It names one bundle for good and all. It lies
in `plugsky-returns/` beside the bundle, as `<channel>-<version>-<first 8 of the keyid>.approval.json`, and is worth
what its signature is worth: nothing is trusted for lying there.

What counts, in order: an approver's key, not revoked and not the site's own; a signature that fits; this very bundle;
an approver who is not installing. Each person counts once. What lies beside the bundle is read by name, the approvals
that are called as ours are first, and until enough count: nothing that lies there hides a good one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Signer

from plugsky_bundles import dsse
from plugsky_bundles.atomic import write_file
from plugsky_bundles.enrolment import APPROVER, ENROL, Enrolled
from plugsky_bundles.errors import NotApproved, NotFound, VerificationError
from plugsky_bundles.format import check_channel, check_version, is_sha256
from plugsky_bundles.plain_files import make_folder, read_plain
from plugsky_bundles.returns import RETURNS, returns_of
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp
from plugsky_bundles.verified import VerifiedBundle

APPROVAL_TYPE: Final = "application/vnd.plugsky.approval+json"
APPROVAL_SCHEMA: Final = "plugsky.approval/1"
APPROVAL: Final = ".approval.json"
MAX_APPROVAL: Final = 16_384
MAX_REASONS: Final = 3
_IDS: Final = ("bundle_id", "content_id", "root_fingerprint")


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval as it was found: its envelope, whose signature has not been checked, and where it lies."""

    place: str
    envelope: Mapping[str, Any]


def approve(verified: VerifiedBundle, signer: Signer, name: str, now: datetime) -> bytes:
    """The approval of `verified` by the holder of `signer`, as it is written to a file."""
    statement = {**_about(verified), "schema": APPROVAL_SCHEMA, "at": stamp(now), "by": name}
    return encode(dsse.sign(signer, APPROVAL_TYPE, encode(statement)))


def file_name(verified: VerifiedBundle, keyid: str) -> str:
    """What the approval of a bundle with that key is called."""
    return f"{verified.channel}-{verified.version}-{keyid[:8]}{APPROVAL}"


def put(verified: VerifiedBundle, data: bytes, keyid: str, folder: Path) -> Path:
    """Write an approval into `folder`, under the name that says what it is of and whose key signed it.

    Raises UnsafeName when a link lies in the place of `plugsky-returns`.
    """
    make_folder(folder, links=folder.name != RETURNS)
    path = folder / file_name(verified, keyid)
    write_file(path, data)
    return path


def read(path: Path) -> Approval:
    """An approval from a file. Raises NotFound, MalformedMetadata or OSError."""
    data = read_plain(path, MAX_APPROVAL, "Name the approval's file by --approval")
    return Approval(f"{path}", parse_object(data, f"{path}", limit=MAX_APPROVAL))


def beside(verified: VerifiedBundle, enrolled: Enrolled) -> Iterator[Approval]:
    """The approvals in `plugsky-returns/` beside a bundle, one after the other, those of our approvers by name first.

    What cannot be read there is no approval.
    """
    folder = returns_of(verified.bundle.path)
    ours = {file_name(verified, keyid) for keyid in enrolled.of(APPROVER)}
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(APPROVAL)]
    except OSError:
        return
    for name in sorted(names, key=lambda name: (name not in ours, name)):
        with suppress(OSError, NotFound, VerificationError):
            yield read(folder / name)


def check(
    verified: VerifiedBundle,
    approvals: Iterable[Approval],
    enrolled: Enrolled,
    installers: Collection[str],
    *,
    site_keyid: str | None = None,
) -> tuple[str, ...]:
    """The names of the approvers of `verified`, as many as `enrolled` requires; `approvals` are read until then.

    `installers` are the names of the installing user. Raises NotApproved, which says of approvals at hand why they do
    not count. An approval that does not count hides no other.
    """
    required = enrolled.approvals_required
    if required == 0:
        return ()
    names: dict[str, str] = {}
    refused: list[str] = []
    more = 0
    for approval in approvals:
        try:
            name = _approver(verified, approval, enrolled, installers, site_keyid)
        except VerificationError as error:
            if len(refused) < MAX_REASONS:
                refused.append(f"{Path(approval.place).name}: {error.why}")
            else:
                more += 1
            continue
        names.setdefault(name.casefold(), name)
        if len(names) >= required:
            return tuple(sorted(names.values()))
    raise NotApproved(
        f"The bundle {verified.channel} version {verified.version} is not approved for this site",
        _why(names.values(), required, [*refused, *([f"{more} more do not count"] if more else [])]),
        "Have an approver run `plugsky bundle approve` on it, then install again",
    )


def _approver(
    verified: VerifiedBundle,
    approval: Approval,
    enrolled: Enrolled,
    installers: Collection[str],
    site_keyid: str | None,
) -> str:
    """Whose approval of `verified` this is. Raises VerificationError with the reason why it does not count."""
    keyid = dsse.keyid_of(approval.envelope, APPROVAL_TYPE)
    person = enrolled.of(APPROVER).get(keyid)
    if keyid == site_keyid:
        raise _no("it is signed with the site's own key, which the installer has")
    if person is None:
        raise _no(f"its key {keyid[:16]} is not enrolled here as an approver's", ENROL)
    if keyid in verified.state.revocations.keys:
        raise _no(f"the key of {person.name} has been revoked")
    payload = dsse.verify(approval.envelope, person.key, APPROVAL_TYPE)
    said = read_statement(payload)
    if {name: said[name] for name in _about(verified)} != _about(verified):
        raise _no(f"it is of another bundle, {said['channel']} version {said['version']} ({said['bundle_id'][:16]})")
    if person.name.casefold() in {name.casefold() for name in installers}:
        raise _no(f"{person.name} is the one who installs, and nobody approves their own work")
    return person.name


def read_statement(payload: bytes) -> dict[str, Any]:
    """What an approval says, checked. Raises MalformedMetadata."""
    what = "An approval"
    said = parse_object(payload, what, limit=MAX_APPROVAL)
    if set(said) != {"schema", "at", "by", "channel", "version", *_IDS} or said["schema"] != APPROVAL_SCHEMA:
        raise malformed(what, f"it is not a {APPROVAL_SCHEMA}")
    if not is_canonical(payload, said) or not isinstance(said["by"], str) or not all(is_sha256(said[n]) for n in _IDS):
        raise malformed(what, "its ids or its name are not usable")
    check_channel(said["channel"])
    check_version(said["version"])
    parse_stamp(said["at"], what)
    return said


def _about(verified: VerifiedBundle) -> dict[str, Any]:
    return {
        "bundle_id": verified.bundle_id,
        "content_id": verified.content_id,
        "channel": verified.channel,
        "version": verified.version,
        "root_fingerprint": verified.root_fingerprint,
    }


def _why(names: Collection[str], required: int, refused: Sequence[str]) -> str:
    there = f"{len(names)} of {required} approvals are there" + (f", by {', '.join(sorted(names))}" if names else "")
    return there + (f"; {'; '.join(refused)}" if refused else "")


def _no(why: str, then: str = "Have an approver approve the bundle") -> VerificationError:
    return VerificationError("An approval does not count", why, then)
