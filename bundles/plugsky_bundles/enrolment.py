"""Keys outside TUF that somebody believes: a site's approvers, at the operator the keys of sites, couriers at both.

`enrolled.json`, canonical JSON, schema `plugsky.enrolled/1`, lies in a trust directory and in a site's `trust/`:
`{"approvals_required": n, "keys": {keyid: {"at", "key", "name", "role"}}, "schema", "serial": n}`. A key is enrolled by
its card, whose fingerprint its holder tells apart from the card. A key has one role; a name has one key per role, and
names that differ in upper and lower case alone are one name.

**Locked.** As soon as a site asks for an approval, its keys change only by a statement that its root's people signed
(`reset`): whoever installs could otherwise approve with a key of their own. `serial` counts those statements, so that
each is used once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from securesystemslib.signer import SSlibKey

from plugsky_bundles import keys
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import BadThreshold, EnrolmentLocked, EnrolmentRefused, NotFound
from plugsky_bundles.key_cards import KeyCard, check_name
from plugsky_bundles.sharing import file_mode
from plugsky_bundles.strict_json import encode, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp

ENROLLED: Final = "enrolled.json"
ENROLLED_SCHEMA: Final = "plugsky.enrolled/1"
SITE: Final = "site"
APPROVER: Final = "approver"
COURIER: Final = "courier"
ENROLLED_ROLES: Final = (SITE, APPROVER, COURIER)
ENROL: Final = (
    "If it is an approver's, enrol its card: `plugsky trust enrol CARD --role approver`; "
    "where approvals are asked for already, `plugsky trust reset request --add`"
)
MAX_ENROLLED: Final = 1 << 20
MAX_KEYS: Final = 1024


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """Who a key stands for, and since when (RFC 3339, UTC)."""

    role: str
    name: str
    key: SSlibKey
    at: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The enrolled keys by id; how many approvals an installation needs; how many statements changed it so far."""

    keys: Mapping[str, EnrolledKey] = field(default_factory=dict)
    approvals_required: int = 0
    serial: int = 0

    def of(self, role: str) -> dict[str, EnrolledKey]:
        return {keyid: enrolled for keyid, enrolled in self.keys.items() if enrolled.role == role}

    def site_keys(self) -> dict[str, SSlibKey]:
        """The keys of sites: whose receipts count."""
        return {keyid: enrolled.key for keyid, enrolled in self.of(SITE).items()}

    @property
    def locked(self) -> bool:
        """Whether keys change by a statement of the root's people only."""
        return self.approvals_required > 0

    def enrol(self, card: KeyCard, role: str, at: datetime, *, approvals_required: int | None = None) -> Enrolled:
        """With the key of `card`. Enrolling the same again changes nothing.

        Raises EnrolmentLocked, EnrolmentRefused when the name has another key, or the key another role or name, and
        BadThreshold when more approvals would be required than there are approvers.
        """
        there = self.keys.get(card.keyid)
        same = there is not None and (there.role, there.name) == (role, card.name)
        wanted = self.approvals_required if approvals_required is None else approvals_required
        if same and wanted == self.approvals_required:
            return self
        if self.locked:
            raise EnrolmentLocked(
                "The keys enrolled here change only by a statement of the root's people",
                f"installing here needs {self.approvals_required} approvals",
                "Ask for one: plugsky trust reset request",
            )
        changed = self if same else self._with(card, role, at)
        return changed._requiring(wanted)

    def replaced(
        self, old: str | None, card: KeyCard | None, role: str, at: datetime, *, approvals_required: int | None
    ) -> Enrolled:
        """Without the key `old` and with that of `card`, both in `role`, whatever the lock says. Counts it.

        This is what a statement does. Raises NotFound when `old` is not enrolled in that role, and what `enrol` raises.
        """
        rest = dict(self.keys)
        if old is not None and ((gone := rest.pop(old, None)) is None or gone.role != role):
            raise NotFound(
                f"The key {old} is not enrolled here as {role}", "there is nothing to replace", "Check the statement"
            )
        changed = replace(self, keys=rest, serial=self.serial + 1)
        if card is not None:
            changed = changed._with(card, role, at)
        return changed._requiring(self.approvals_required if approvals_required is None else approvals_required)

    def _with(self, card: KeyCard, role: str, at: datetime) -> Enrolled:
        if card.keyid in self.keys:
            there = self.keys[card.keyid]
            raise EnrolmentRefused(
                f"The key of {card.name} is enrolled already",
                f"as {there.role} {there.name}; a key stands for one person in one role",
                "Have another key made",
            )
        if any(other.name.casefold() == card.name.casefold() for other in self.of(role).values()):
            raise EnrolmentRefused(
                f"Another key of {role} {card.name} is enrolled already",
                "a name has one key",
                "Replace it by a statement (plugsky trust reset request), or have the key made under another name",
            )
        if len(self.keys) >= MAX_KEYS:
            raise EnrolmentRefused(
                "Too many keys are enrolled here", f"the limit is {MAX_KEYS}", "Remove those of the past"
            )
        return replace(self, keys={**self.keys, card.keyid: EnrolledKey(role, card.name, card.key, stamp(at))})

    def _requiring(self, number: int) -> Enrolled:
        if not 0 <= number <= len(self.of(APPROVER)):
            raise BadThreshold(
                f"{number} approvals cannot be required",
                f"{len(self.of(APPROVER))} approvers are enrolled, each counts once",
                "Enrol more approvers first",
            )
        return replace(self, approvals_required=number)

    def to_json(self) -> bytes:
        """One line of canonical JSON; `from_json` gives an equal value back."""
        members = {
            keyid: {"role": e.role, "name": e.name, "key": keys.public_dict(e.key), "at": e.at}
            for keyid, e in self.keys.items()
        }
        counts = {"approvals_required": self.approvals_required, "serial": self.serial}
        return encode({"schema": ENROLLED_SCHEMA, "keys": members, **counts})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises MalformedMetadata or BadKey: what cannot be read is never taken for nobody."""
        what = "The list of enrolled keys"
        members = parse_object(data, what, limit=MAX_ENROLLED)
        if set(members) != {"schema", "keys", "approvals_required", "serial"} or members["schema"] != ENROLLED_SCHEMA:
            raise malformed(what, f"it is not a {ENROLLED_SCHEMA}")
        numbers = (members["approvals_required"], members["serial"])
        if not isinstance(members["keys"], dict) or any(type(n) is not int or n < 0 for n in numbers):
            raise malformed(what, "its keys or its numbers are not usable")
        found = {keyid: _read(keyid, entry, what) for keyid, entry in members["keys"].items()}
        return cls(found, *numbers)


def load(directory: Path, name: str = ENROLLED) -> Enrolled:
    """The keys enrolled in a trust directory, or in the `trust/` of a site. Nobody where there is no file."""
    try:
        with (directory / name).open("rb") as file:
            return Enrolled.from_json(file.read(MAX_ENROLLED + 1))
    except FileNotFoundError:
        return Enrolled()


def save(directory: Path, enrolled: Enrolled, name: str = ENROLLED) -> None:
    """Put the list into `directory`, replacing what was there in one step."""
    write_file(directory / name, enrolled.to_json(), mode=file_mode(directory))


def _read(keyid: str, entry: Any, what: str) -> EnrolledKey:
    if (
        not isinstance(entry, dict)
        or set(entry) != {"role", "name", "key", "at"}
        or entry["role"] not in ENROLLED_ROLES
    ):
        raise malformed(what, f"its entry of {keyid!r} is not usable")
    key = keys.public_from_dict(entry["key"])
    if key.keyid != keyid:
        raise malformed(what, f"the key under {keyid!r} is {key.keyid}")
    parse_stamp(entry["at"], what)
    return EnrolledKey(entry["role"], check_name(entry["name"]), key, entry["at"])
