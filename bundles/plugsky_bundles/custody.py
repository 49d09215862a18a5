"""Who had a sealed bundle in hand: one signed chain per person, in `plugsky-returns/custody/` beside the bundle.

Until the seal, custody is the operator's log (`evidence/custody.jsonl`, covered by the snapshot). Afterwards a bundle
must not change any more, so everyone who writes it to media, hands it over, verifies, approves or installs it appends
to a chain of their own (`chain`), signed with their own key:
`<channel>-<version>-<first 16 of the keyid>.jsonl`, origin `custody.<channel>-<version>.<first 16 of the keyid>`.

A record is `{"event", "at", "by", "bundle_id", "details", "seen"}`. `seen` maps the origin of every other chain that
the writer found there, and `trust` for the sealed log, to the hash of its newest commit: a chain that was taken away or
cut afterwards is missed by those who saw it, and the order of events across people does not rest on their clocks.

`review` believes nobody but the keys it is given, each for what its role does, and says every doubt; the media may hold
anything. No link is followed there, nor written through. Where every log was taken away and nobody is left who saw one,
that looks like a bundle that nobody recorded anything about: `Custody.recorded` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from securesystemslib.signer import Signer

from plugsky_bundles.approval import RETURNS
from plugsky_bundles.atomic import write_file
from plugsky_bundles.chain import ChainWriter
from plugsky_bundles.chain_lines import MAX_LINE, Line, read_genesis, read_line
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.enrolment import APPROVER, SITE
from plugsky_bundles.errors import ChainError, CustodyDoubt, MalformedMetadata, NotFound, VerificationError
from plugsky_bundles.format import CUSTODY, is_sha256
from plugsky_bundles.plain_files import make_folder, open_plain, read_plain
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import parse_stamp, stamp
from plugsky_bundles.verified import VerifiedBundle

FOLDER: Final = "custody"
EVENTS: Final = (
    "bundle.write",
    "bundle.hand-over",
    "bundle.receive",
    "bundle.verify",
    "bundle.approve",
    "bundle.install",
    "bundle.note",
)
SEALED_LOG: Final = "trust"
MAX_CHAINS: Final = 256
MAX_CHAIN_BYTES: Final = 8 << 20
MAX_DETAIL: Final = 500
CLOCKS_APART: Final = timedelta(days=2)
OPERATOR: Final = "operator"
BY_SITE: Final = "site"
_FOR: Final = {"bundle.approve": APPROVER, "bundle.install": SITE}
_GONE: Final = "Look at what lies there"
_FILE: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,31})-([1-9][0-9]{0,9})-([0-9a-f]{16})\.jsonl", re.ASCII)
_DETAIL: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
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
    """The way of a bundle: what was sealed with it, what came after, in order of time; and every reason for doubt."""

    events: tuple[Event, ...]
    doubts: tuple[str, ...]

    @property
    def recorded(self) -> bool:
        """Whether anybody recorded anything after the seal."""
        return any(event.keyid for event in self.events)


def record(
    folder: Path,
    verified: VerifiedBundle,
    signer: Signer,
    by: str,
    event: str,
    now: datetime,
    details: Mapping[str, str] | None = None,
) -> Path:
    """Append one record to the signer's own chain in `folder`, which is made when it is not there; signed and on disk.

    Raises ValueError for an unknown event or details out of bounds, UnsafeName or CustodyDoubt for a link in the place
    of a folder or of the chain, and what `ChainWriter` raises.
    """
    if event not in EVENTS:
        raise ValueError(event)
    checked = _details(dict(details or {}))
    keyid = signer.public_key.keyid
    _make(folder)
    path = folder / file_name(verified, keyid)
    _check_plain(path)
    seen = {SEALED_LOG: _sealed_head(verified)} if CUSTODY in verified.evidence else {}
    for other in _chains(folder, verified):
        if other != path:
            origin, head = _head_of(other)
            seen[origin] = head
    with ChainWriter(path, signer, _origin(verified, keyid)) as chain:
        chain.append(
            {
                "event": event,
                "at": stamp(now),
                "by": by,
                "bundle_id": verified.bundle_id,
                "details": checked,
                "seen": seen,
            }
        )
    return path


def carry(source: Path, destination: Path, verified: VerifiedBundle) -> int:
    """Take the chains of a bundle along to where its copy lies; returns how many were taken.

    A chain that is there already stays when it goes further, and is replaced when it only begins like the other.
    Raises CustodyDoubt when the two are different logs, or one is no plain file; UnsafeName for a link in place of a
    folder.
    """
    taken = 0
    for path in _chains(source, verified):
        data = _read(path)
        there = destination / path.name
        before = _read(there) if os.path.lexists(there) else b""
        if before.startswith(data):
            continue
        if not data.startswith(before):
            raise CustodyDoubt(
                f"There are two custody logs {path.name}",
                f"{there} and {path} differ in what they have in common",
                "Keep both as evidence, and ask whose key it is",
            )
        _make(destination)
        write_file(there, data)
        taken += 1
    return taken


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
    for path in _chains(folder, verified):
        found.chain(path)
    found.compare_seen()
    return Custody(tuple(sorted(found.events, key=lambda event: event.at)), tuple(found.doubts))


class _Review:
    """Collects events and doubts, chain by chain."""

    def __init__(self, verified: VerifiedBundle, known: Mapping[str, Keyholder], revoked: Collection[str]) -> None:
        self.events: list[Event] = []
        self.doubts: list[str] = []
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
            report = verify_chain(_sealed_log(verified), verified.custodians, on_record=take)
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
        for name, plain in _named(folder, self._verified):
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
            with open_plain(path, _GONE) as file:
                keyid, origin = _whose(file, name)
                file.seek(0)
                report = verify_chain(file, on_record=take)
                if (
                    origin != _origin(self._verified, keyid)
                    or path.name != f"{_stem(self._verified)}-{keyid[:16]}.jsonl"
                ):
                    raise malformed(name, "its name does not fit its key or its bundle")
        except (VerificationError, NotFound, OSError) as error:
            self.doubts.append(f"{name}: {error}")
            return
        self._heads.setdefault(report.origin, set()).update(positions | {report.head.hash})
        if keyid not in self._known:
            self.doubts.append(f"{name}: nobody enrolled its key {keyid}")
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
        details = _details(body["details"])
        holder = self._known.get(keyid)
        return Event(at, body["event"], body["by"], holder.called if holder else "", keyid, details), seen


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


def doubt(custody: Custody) -> CustodyDoubt:
    """The error that stands for the doubts of a review."""
    more = f"; and {len(custody.doubts) - 1} more" if len(custody.doubts) > 1 else ""
    return CustodyDoubt(
        "The way of this bundle is in doubt", f"{custody.doubts[0]}{more}", "Do not install it before that is explained"
    )


def _stem(verified: VerifiedBundle) -> str:
    return f"{verified.channel}-{verified.version}"


def file_name(verified: VerifiedBundle, keyid: str) -> str:
    """The name of the chain that the holder of a key writes about a bundle."""
    return f"{_stem(verified)}-{keyid[:16]}.jsonl"


def _origin(verified: VerifiedBundle, keyid: str) -> str:
    return f"custody.{_stem(verified)}.{keyid[:16]}"


def _chains(folder: Path, verified: VerifiedBundle) -> list[Path]:
    """The chains of this bundle, by name. Raises CustodyDoubt for more than anyone could have written."""
    return [folder / name for name, plain in _named(folder, verified) if plain]


def _named(folder: Path, verified: VerifiedBundle) -> list[tuple[str, bool]]:
    """The names of the chains of this bundle, and whether a plain file is there. Raises CustodyDoubt for too many."""
    leads_away = folder.is_symlink() or (folder.parent.name == RETURNS and folder.parent.is_symlink())
    if leads_away or not folder.is_dir():
        return []
    named = sorted((entry.name, entry.is_file(follow_symlinks=False)) for entry in os.scandir(folder))
    found = [(n, plain) for n, plain in named if (m := _FILE.fullmatch(n)) and f"{m[1]}-{m[2]}" == _stem(verified)]
    if len(found) > MAX_CHAINS:
        raise CustodyDoubt(f"{folder} holds too many logs", f"{len(found)} of one bundle", "Look at it by hand")
    return found


def _make(folder: Path) -> None:
    """Make the folder of logs; a link there, or for the `plugsky-returns` around it, would lead elsewhere."""
    if folder.parent.name == RETURNS:
        make_folder(folder.parent)
    make_folder(folder)


def _check_plain(path: Path) -> None:
    """Refuse a chain that is there and is no plain file."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise _no_log(path)


def _no_log(path: Path) -> CustodyDoubt:
    return CustodyDoubt(f"{path} is no custody log", "it is a link, a pipe or a device", "Look at it, and remove it")


def _read(path: Path) -> bytes:
    try:
        data = read_plain(path, MAX_CHAIN_BYTES, _GONE)
    except MalformedMetadata:
        raise _no_log(path) from None
    if len(data) > MAX_CHAIN_BYTES:
        raise CustodyDoubt(f"{path} is too long", f"a custody log has at most {MAX_CHAIN_BYTES} bytes", "Look at it")
    return data


def _whose(file: BinaryIO, name: str) -> tuple[str, str]:
    """The key and the origin that a chain's first line names."""
    if os.fstat(file.fileno()).st_size > MAX_CHAIN_BYTES:
        raise malformed(name, f"it has more than {MAX_CHAIN_BYTES} bytes")
    first = file.readline(MAX_LINE + 1)
    if not first.endswith(b"\n"):
        raise malformed(name, "it has no first line")
    key, origin = read_genesis(read_line(first))
    return key.keyid, origin


def _head_of(path: Path) -> tuple[str, str]:
    """Origin and newest commit of somebody else's chain, whose right to write it is not judged here."""
    try:
        with open_plain(path, _GONE) as file:
            report = verify_chain(file)
    except ChainError as error:
        raise CustodyDoubt(
            f"{path} is no custody log that could be continued from", error.why, "Keep it as evidence, apart"
        ) from error
    return report.origin, report.head.hash


def _sealed_head(verified: VerifiedBundle) -> str:
    return verify_chain(_sealed_log(verified), verified.custodians).head.hash


def _sealed_log(verified: VerifiedBundle) -> BinaryIO:
    """The log in the bundle; raises MediaUnreadable or DigestMismatch."""
    return BytesIO(verified.bundle.read(CUSTODY, limit=verified.evidence[CUSTODY].length))


def _details(values: Any) -> dict[str, str]:
    if not isinstance(values, dict) or len(values) > 32:
        raise malformed("A custody record", "its details cannot be read")
    for name, value in values.items():
        good = _DETAIL.fullmatch(name) and isinstance(value, str) and len(value) <= MAX_DETAIL and value.isprintable()
        if not good:
            raise malformed("A custody record", f"its detail {name[:40]!r} is not one short line")
    return dict(values)
