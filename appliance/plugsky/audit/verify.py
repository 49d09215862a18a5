"""Verifying the trail of a site: reads every chain and custody log, then has :mod:`plugsky.audit.proof` link them.

A chain is verified by the trust kernel: every line, every hash, the last signature, by the site's own key. Records
that the running writer has not signed yet are counted and said, not taken for damage. A damaged chain is reported with
the place; the others are still read. Memory does not grow with the trail; where ledger and trail differ, both are
read a second time.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from plugsky.audit.events import (
    HEAD_PREFIX,
    KEY_CHANGES,
    MAKE_GENERATIONS,
    OPEN,
    REQUEST,
    ClosedEntry,
    StoredKey,
)
from plugsky.audit.matching import Compared, Matching
from plugsky.audit.proof import Custody, Evidence, InstalledBundle, Mention, MonthSums, broken_mentions, prove
from plugsky.audit.trail import CHAIN_FILE, Record, as_record, chain_names, records
from plugsky.core.errors import PlugskyError
from plugsky_bundles.chain_lines import Line, Position
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import BundleError


@dataclass(frozen=True)
class ChainFinding:
    """The verdict on one chain or custody log. ``head`` is the hash of its newest signed line."""

    chain: str
    records: int
    head: str
    ok: bool
    problem: str = ""
    first_time: str = ""
    last_time: str = ""
    unsigned: int = 0


@dataclass(frozen=True)
class SiteVerdict:
    """The verdict on the site: every chain, what was proven between them in order, and what speaks against it."""

    chains: tuple[ChainFinding, ...]
    links: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


class Books(Protocol):
    """The site's ledger."""

    def closed(self) -> Iterable[ClosedEntry]: ...

    def sums(self) -> Iterable[MonthSums]: ...


def verify_site(
    audit: Path,
    site_keyid: str | None,
    custodians: Collection[str],
    generations: Sequence[tuple[InstalledBundle, Path]],
    books: Books,
    keys: Iterable[StoredKey],
    settled_before_us: int,
    *,
    former: Collection[str] = (),
) -> SiteVerdict:
    """The verdict on the site whose chains lie under ``audit``.

    ``former`` are the site's own keys before ``site_keyid``, by id. ``custodians`` are the keyids that the roots which
    were trusted so far let sign custody; ``generations`` come with the path of their custody log, oldest first.
    ``keys`` were read before this was called, and ``books`` are read after the chains were.
    Entries settled before ``settled_before_us`` must have their record by now.
    """
    evidence = Evidence(settled_before_us, Matching(settled_before_us), keys=tuple(keys))
    findings = []
    for generation, log in generations:
        finding, custody = _custody(generation, log, custodians)
        findings.append(finding)
        evidence.custody.append(custody)
    names = chain_names(audit)
    trusted = None if site_keyid is None else {site_keyid, *former}
    findings.extend(_verify_chain(audit, name, trusted, partial(_note, evidence)) for name in names)
    evidence.positions = {name: _lines(audit / name / CHAIN_FILE, evidence.wanted(name)) for name in names}
    for entry in books.closed():
        evidence.matching.entry(entry)
    evidence.compared, evidence.beyond = _to_compare(audit, names, books, evidence.matching)
    evidence.sums = tuple(books.sums())
    links, problems = prove(evidence)
    if site_keyid is None:
        problems = ["the site has no key, so nothing says that its chains are its own", *problems]
    if not names:
        problems = ["the site has no audit chain", *problems]
    broken = [f"{finding.chain}: {finding.problem}" for finding in findings if not finding.ok]
    late = [
        f"the newest {finding.unsigned} records of {finding.chain} are not signed yet"
        for finding in findings
        if finding.unsigned
    ]
    return SiteVerdict(tuple(findings), (*links, *late), (*broken, *problems))


def verify_continued(audit: Path, name: str, site_keyid: str | None) -> tuple[str, ...]:
    """What speaks against a chain that its process has just opened again: a place where it is damaged, or that another
    chain saw it stand where it does not. Of the other chains only the newest notes are read.
    """
    evidence = Evidence(0, Matching(0))
    trusted = None if site_keyid is None else {site_keyid}
    finding = _verify_chain(audit, name, trusted, partial(_note_mentions, evidence))
    evidence.mentions = [
        mention for other in chain_names(audit) if other != name for mention in _newest_mention(audit, other, name)
    ]
    evidence.positions = {name: _lines(audit / name / CHAIN_FILE, evidence.wanted(name))}
    return (*([] if finding.ok else [finding.problem]), *broken_mentions(evidence))


def _newest_mention(audit: Path, by: str, of: str) -> list[Mention]:
    try:
        for record in records(audit, by):
            found = [mention for mention in _mentions(record) if mention.chain == of] if record.action == OPEN else []
            if found:
                return found
    except PlugskyError:
        return []  # that chain is damaged: its own process says so
    return []


def _to_compare(audit: Path, names: Iterable[str], books: Books, matching: Matching) -> tuple[Compared, int]:
    """The requests to be compared one by one. Reads everything once more where ledger and trail differ."""
    groups, beyond = matching.differing()
    if not groups:
        return matching.recent, 0
    chosen = Compared()

    def note(record: Record) -> None:
        if record.action == REQUEST:
            matching.choose(groups, chosen, record)

    for name in names:
        _verify_chain(audit, name, None, note)
    for entry in books.closed():
        matching.choose(groups, chosen, entry)
    return chosen, beyond


def _note(evidence: Evidence, record: Record) -> None:
    if record.action == REQUEST:
        evidence.matching.record(record)
    elif record.action in MAKE_GENERATIONS:
        evidence.installs.append(record)
    elif record.action in KEY_CHANGES:
        evidence.key_changes.append(record)
    else:
        _note_mentions(evidence, record)


def _note_mentions(evidence: Evidence, record: Record) -> None:
    if record.action == OPEN:
        evidence.mentions.extend(_mentions(record))


def _verify_chain(
    audit: Path, name: str, trusted: Collection[str] | None, note: Callable[[Record], None]
) -> ChainFinding:
    """The verdict on one chain; ``note`` sees its records up to the first damage."""
    seen = _Seen()

    def read(line: Line) -> None:
        record = as_record(name, line)
        seen.note(record.time)
        note(record)

    return _verify(name, audit / name / CHAIN_FILE, trusted, read, seen, open_tail=True)


def _custody(generation: InstalledBundle, log: Path, custodians: Collection[str]) -> tuple[ChainFinding, Custody]:
    seen = _Seen()
    bodies: list[dict[str, Any]] = []

    def note(line: Line) -> None:
        at = line.body.get("at")
        seen.note(at if isinstance(at, str) else "")
        bodies.append(dict(line.body))

    name = f"custody of generation {generation.number}"
    finding = _verify(name, log, custodians, note, seen, open_tail=False)
    return finding, Custody(generation, finding.ok, finding.head, tuple(bodies))


def _verify(
    name: str,
    path: Path,
    trusted: Collection[str] | None,
    note: Callable[[Line], None],
    seen: "_Seen",
    *,
    open_tail: bool,
) -> ChainFinding:
    try:
        report = verify_chain(path, trusted, open_tail=open_tail, on_record=note)
    except (BundleError, OSError) as error:
        problem = f"{error.what}: {error.why}" if isinstance(error, BundleError) else str(error.strerror)
        return ChainFinding(name, seen.records, "", False, problem, seen.first, seen.last)
    return ChainFinding(
        name, report.records, report.head.hash, True, "", seen.first, seen.last, unsigned=report.uncommitted
    )


@dataclass
class _Seen:
    records: int = 0
    first: str = ""
    last: str = ""

    def note(self, time: str) -> None:
        self.records += 1
        self.first, self.last = self.first or time, time or self.last


def _mentions(record: Record) -> Iterable[Mention]:
    for name, value in record.fields.items():
        seq, _, digest = str(value).partition(":")
        if name.startswith(HEAD_PREFIX) and seq.isdecimal():
            yield Mention(record.chain, record.seq, name.removeprefix(HEAD_PREFIX), Position(int(seq), digest))


def _lines(path: Path, wanted: Collection[int]) -> dict[int, str]:
    """The hashes of the lines with these numbers; a line's number is its place, which verifying has checked."""
    if not wanted:
        return {}
    with path.open("rb") as file:
        return {number: hashlib.sha256(raw).hexdigest() for number, raw in enumerate(file) if number in wanted}
