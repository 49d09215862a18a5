"""Judging the custody of a bundle: what its logs say, and every reason to doubt it.

Nobody is believed but the keys that are given, each for what its role does; the media may hold anything. A whole log by
a key that nobody here enrolled is told apart from a fault: a site that signs its installation is unknown to all but its
operator. It proves nothing, and accuses nobody. Where every log was taken away and nobody is left who saw one, that
looks like a bundle that nobody recorded anything about: `Custody.recorded` says so.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from plugsky_bundles.chain_lines import Line
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.custody_files import (
    EVENTS,
    MAX_CHAINS,
    SEALED_LOG,
    THEN,
    chains,
    check_details,
    file_name,
    named,
    origin_of,
    sealed_log,
    whose,
)
from plugsky_bundles.enrolment import APPROVER, SITE
from plugsky_bundles.errors import CustodyDoubt, NotFound, VerificationError
from plugsky_bundles.format import CUSTODY, is_sha256
from plugsky_bundles.plain_files import open_plain
from plugsky_bundles.returns import RETURNS
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import parse_stamp, stamp
from plugsky_bundles.verified import VerifiedBundle

CLOCKS_APART: Final = timedelta(days=2)
OPERATOR: Final = "operator"
BY_SITE: Final = "site"
_FOR: Final = {"bundle.approve": APPROVER, "bundle.install": SITE}
_FIELDS: Final = frozenset({"event", "at", "by", "bundle_id", "details", "seen"})


@dataclass(frozen=True, slots=True)
class Keyholder:
    """Whom a key stands for: `name` as it was enrolled, "" where nobody gave it one, and `role`: one of `enrolment`, or
    OPERATOR for the keys of the root."""

    name: str
    role: str

    @property
    def called(self) -> str:
        return f"{self.role} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a bundle. `by` is what the keyholder calls themselves, `known_as` what they were
    enrolled as ("" for a key that nobody enrolled); `at` in UTC."""

    at: datetime
    event: str
    by: str
    known_as: str
    keyid: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Custody:
    """The way of a bundle: what was sealed with it, what came after, in order of time; and every reason for doubt.

    `unknown` are the keyids of whole logs that nobody enrolled, by name of their log.
    """

    events: tuple[Event, ...]
    doubts: tuple[str, ...]
    unknown: Mapping[str, str]

    @property
    def recorded(self) -> bool:
        """Whether anybody recorded anything after the seal."""
        return any(event.keyid for event in self.events)


def review(
    folder: Path, verified: VerifiedBundle, known: Mapping[str, Keyholder], revoked: Collection[str] = ()
) -> Custody:
    """Everything that the chains in `folder` and the sealed log say of a bundle.

    `known` are the keyholders by keyid; `revoked` are keyids that do not count, beside those that the bundle and the
    site name. What is not right there is a doubt in words, one each. Raises CustodyDoubt only for too many logs to look
    at.
    """
    found = _Review(verified, known, verified.state.revocations.keys | set(revoked))
    found.sealed()
    found.places(folder)
    for path in chains(folder, verified):
        found.chain(path)
    found.compare_seen()
    return Custody(tuple(sorted(found.events, key=lambda event: event.at)), tuple(found.doubts), found.unknown)


class _Review:
    """Collects events and doubts, chain by chain."""

    def __init__(self, verified: VerifiedBundle, known: Mapping[str, Keyholder], revoked: Collection[str]) -> None:
        self.events: list[Event] = []
        self.doubts: list[str] = []
        self.unknown: dict[str, str] = {}
        self._verified = verified
        self._known = known
        self._revoked = revoked
        self._heads: dict[str, set[str]] = {}
        self._seen: list[tuple[str, str, str]] = []

    def sealed(self) -> None:
        """The operator's log, which the seal covers; its signature is a custodian's."""
        verified = self._verified
        if CUSTODY not in verified.evidence:
            self.doubts.append("the bundle has no sealed log: nobody says how it was made")
            return
        heads: set[str] = set()
        taken: list[Event] = []
        what = "The sealed log"

        def take(line: Line) -> None:
            heads.add(line.prev)
            event = line.body.get("event")
            if not isinstance(event, str) or line.body.get("channel") not in (None, verified.channel):
                return
            details = {n: v for n, v in line.body.items() if isinstance(v, str) and n not in ("event", "at")}
            taken.append(Event(parse_stamp(line.body.get("at"), what), event, "", "the operator", "", details))

        try:
            report = verify_chain(sealed_log(verified), verified.custodians, on_record=take)
        except VerificationError as error:
            self.doubts.append(f"the sealed log: {error.what}: {error.why}")
            return
        self._heads[SEALED_LOG] = heads | {report.head.hash}
        self.events += taken

    def places(self, folder: Path) -> None:
        """What lies where a log, or the folder of logs, would."""
        for place in (folder.parent, folder) if folder.parent.name == RETURNS else (folder,):
            if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
                self.doubts.append(f"{place} is no directory of its own: what it leads to is not looked at")
                return
        for name, plain in named(folder, self._verified):
            if not plain:
                self.doubts.append(f"{name}: it is no plain file, so what was recorded there is gone")

    def chain(self, path: Path) -> None:
        """One person's chain."""
        taken: list[tuple[Event, Mapping[str, str]]] = []
        positions: set[str] = set()
        keyid, name = "", path.name

        def take(line: Line) -> None:
            positions.add(line.prev)
            if line.body.get("event") == "chain.recovered":
                self.doubts.append(f"{name}: a record was cut off or left unsigned, and the log was continued")
                return
            taken.append(self._event(line.body, keyid, name))

        try:
            with open_plain(path, THEN) as file:
                keyid, origin = whose(file, name)
                file.seek(0)
                report = verify_chain(file, on_record=take)
                if (origin, name) != (origin_of(self._verified, keyid), file_name(self._verified, keyid)):
                    raise malformed(name, "its name does not fit its key or its bundle")
        except (VerificationError, NotFound, OSError) as error:
            self.doubts.append(f"{name}: {error}")
            return
        self._heads.setdefault(report.origin, set()).update(positions | {report.head.hash})
        if keyid not in self._known:
            self.unknown[name] = keyid
        if keyid in self._revoked:
            self.doubts.append(f"{name}: its key {keyid} has been revoked: anyone may have written it")
        for event, seen in taken:
            self.events.append(event)
            if (holder := self._known.get(keyid)) is not None:
                self.doubts += [f"{name}: {why}" for why in _unfitting(event, holder)]
            self._seen += [(name, origin, head) for origin, head in seen.items()]

    def compare_seen(self) -> None:
        """What somebody saw must still be there."""
        for name, origin, head in self._seen:
            if origin not in self._heads:
                self.doubts.append(f"{name}: its writer saw the log {origin}, which is gone")
            elif head not in self._heads[origin]:
                self.doubts.append(
                    f"{name}: its writer saw more of {origin} than is there: that log was cut or replaced"
                )

    def _event(self, body: Mapping[str, Any], keyid: str, name: str) -> tuple[Event, Mapping[str, str]]:
        if set(body) != _FIELDS or body["event"] not in EVENTS or not isinstance(body["by"], str):
            raise malformed(name, "a record in it is none of custody")
        if body["bundle_id"] != self._verified.bundle_id:
            raise malformed(name, "a record in it is about another bundle")
        seen = body["seen"]
        if not isinstance(seen, dict) or len(seen) > MAX_CHAINS or not all(is_sha256(head) for head in seen.values()):
            raise malformed(name, "what a record in it saw cannot be read")
        at = parse_stamp(body["at"], name)
        if at < self._verified.sealed_at - CLOCKS_APART:
            self.doubts.append(f"{name}: {body['event']} of {stamp(at)} is older than the seal: a clock was wrong")
        details = check_details(body["details"])
        holder = self._known.get(keyid)
        return Event(at, body["event"], body["by"], holder.called if holder else "", keyid, details), seen


def doubt(custody: Custody) -> CustodyDoubt:
    """The error that stands for the doubts of a review."""
    more = f"; and {len(custody.doubts) - 1} more" if len(custody.doubts) > 1 else ""
    return CustodyDoubt(
        "The way of this bundle is in doubt", f"{custody.doubts[0]}{more}", "Do not install it before that is explained"
    )


def _unfitting(event: Event, holder: Keyholder) -> list[str]:
    """Why an event is none of its keyholder's."""
    found = []
    role = _FOR.get(event.event)
    if role is not None and holder.role != role:
        found.append(f"{event.event} is signed by {holder.called}, and only {role} keys do that")
    if role is None and holder.role == SITE:
        found.append(f"{event.event} is signed by {holder.called}, and the key of a site signs bundle.install only")
    own = (holder.name, BY_SITE) if holder.role == SITE else (holder.name,)
    if holder.name and event.by not in own:
        found.append(f"{event.event} is signed by {holder.called}, who calls themselves {event.by!r} there")
    return found
