"""What a site believes: one root, the newest versions it accepted, the newest time it can prove, what is revoked.

A `TrustState` is a value; accepting a bundle makes a new one, and whoever keeps it stores it. Floors are per channel
and never fall, but for those that a new root makes void (`recovery`); time never goes back; revocations only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from plugsky_bundles.errors import Revoked, Rollback
from plugsky_bundles.format import MAX_VERSION, check_channel, is_sha256
from plugsky_bundles.recovery import remaining, voided
from plugsky_bundles.strict_json import encode, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp

STATE_SCHEMA: Final = "plugsky.trust-state/1"
REVOCATIONS_SCHEMA: Final = "plugsky.revocations/1"
MAX_STATE: Final = 16 << 20
MAX_REVOCATIONS: Final = 1 << 20
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Revocations:
    """What must never be accepted again: bundle ids, digests of files or chunks, keyids."""

    bundles: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    def __or__(self, other: Revocations) -> Revocations:
        return Revocations(self.bundles | other.bundles, self.digests | other.digests, self.keys | other.keys)

    def to_json(self) -> bytes:
        """The content of the target `policy/revocations.json`."""
        return encode({"schema": REVOCATIONS_SCHEMA, **self.to_dict()})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        what = "The list of revocations"
        members = parse_object(data, what, limit=MAX_REVOCATIONS)
        if members.pop("schema", None) != REVOCATIONS_SCHEMA:
            raise malformed(what, f"its schema is not {REVOCATIONS_SCHEMA}")
        return cls.from_dict(members, what)

    def to_dict(self) -> dict[str, list[str]]:
        return {"bundles": sorted(self.bundles), "digests": sorted(self.digests), "keys": sorted(self.keys)}

    @classmethod
    def from_dict(cls, members: Any, what: str) -> Self:
        if not isinstance(members, dict) or set(members) != {"bundles", "digests", "keys"}:
            raise malformed(what, "it must have exactly bundles, digests and keys")
        for ids in members.values():
            if not isinstance(ids, list) or not all(is_sha256(item) for item in ids):
                raise malformed(what, "its entries are not all 64 lower-case hex digits")
        return cls(*(frozenset(members[name]) for name in ("bundles", "digests", "keys")))


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest of one channel: the version of each role file by name, and the id of that bundle."""

    versions: Mapping[str, int]
    bundle_id: str

    def refuse_older(self, role: str, version: int) -> None:
        """Raises Rollback for a role file that is older than the newest."""
        if version < self.versions.get(role, 0):
            raise Rollback(
                "This bundle is older than one accepted before",
                f"{role} is at version {version}, this site has seen {self.versions[role]}",
                "Use the newest bundle of this channel",
            )

    def refuse_other(self, timestamp: int, bundle_id: str) -> None:
        """Raises Rollback for another bundle under the version of the newest."""
        if self.versions.get("timestamp") == timestamp and self.bundle_id != bundle_id:
            raise Rollback(
                "This version was accepted with other content",
                f"the bundle accepted before is {self.bundle_id}, this one {bundle_id}",
                "Do not use it; ask its builder which one is right",
            )

    def refuse(self, later: Floor) -> None:
        """Raises Rollback where a bundle of `later` is none that may follow this one."""
        for role, version in later.versions.items():
            self.refuse_older(role, version)
        self.refuse_other(later.versions["timestamp"], later.bundle_id)


@dataclass(frozen=True, slots=True)
class TrustState:
    """`root` is the newest accepted root metadata, byte for byte."""

    root: bytes
    floors: Mapping[str, Floor] = field(default_factory=dict)
    time: datetime = EPOCH
    revocations: Revocations = Revocations()

    def under(self, root: bytes) -> TrustState:
        """This state with the floors that still count under `root`, which replaces its own. Its root stays."""
        void = voided(self.root, root)
        if not void:
            return self
        floors = {channel: Floor(remaining(f.versions, void), f.bundle_id) for channel, f in self.floors.items()}
        return replace(self, floors={channel: floor for channel, floor in floors.items() if floor.versions})

    def accept(
        self, *, root: bytes, channel: str, floor: Floor, time: datetime, revocations: Revocations
    ) -> TrustState:
        """The state after a bundle was accepted."""
        return replace(
            self,
            root=root,
            floors={**self.under(root).floors, channel: floor},
            time=max(self.time, time),
            revocations=self.revocations | revocations,
        )

    def to_json(self) -> bytes:
        """One line of canonical JSON; `from_json` gives an equal state back."""
        floors = {c: {"versions": dict(f.versions), "bundle_id": f.bundle_id} for c, f in self.floors.items()}
        return encode(
            {
                "schema": STATE_SCHEMA,
                "root": self.root.decode("utf-8"),
                "floors": floors,
                "time": stamp(self.time),
                "revocations": self.revocations.to_dict(),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a stored state. Raises MalformedMetadata: a state that cannot be read is never taken as an empty one."""
        what = "The stored trust state"
        members = parse_object(data, what, limit=MAX_STATE)
        if set(members) != {"schema", "root", "floors", "time", "revocations"} or members["schema"] != STATE_SCHEMA:
            raise malformed(what, f"it is not a {STATE_SCHEMA}")
        if not isinstance(members["root"], str) or not isinstance(members["floors"], dict):
            raise malformed(what, "its root or its floors are missing")
        return cls(
            members["root"].encode("utf-8"),
            {channel: _floor(channel, floor, what) for channel, floor in members["floors"].items()},
            parse_stamp(members["time"], what),
            Revocations.from_dict(members["revocations"], what),
        )


def check_revoked(revocations: Revocations, bundle_id: str, digests: Mapping[str, str]) -> None:
    """Refuse a revoked bundle id, or a revoked digest (`digests` maps each digest to the path it belongs to)."""
    if bundle_id in revocations.bundles:
        raise Revoked("This bundle has been revoked", f"its id {bundle_id} is on the list", "Ask for a newer one")
    for digest in sorted(revocations.digests & digests.keys()):
        raise Revoked(
            f"{digests[digest]} has been revoked", f"its digest {digest} is on the list", "Ask for a newer one"
        )


def _floor(channel: str, floor: Any, what: str) -> Floor:
    check_channel(channel)
    if not isinstance(floor, dict) or set(floor) != {"versions", "bundle_id"} or not is_sha256(floor["bundle_id"]):
        raise malformed(what, f"the floor of {channel!r} is not readable")
    versions = floor["versions"]
    if not isinstance(versions, dict) or not all(type(v) is int and 1 <= v <= MAX_VERSION for v in versions.values()):
        raise malformed(what, f"the floor of {channel!r} holds a version out of range")
    return Floor(versions, floor["bundle_id"])
