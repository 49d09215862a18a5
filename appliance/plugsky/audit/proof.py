"""What the chains of a site say about each other and about the ledger. Pure.

The proof runs from ``trust init`` to the last request, in this order:

1. The custody log of a generation begins with ``trust.init``, names the root by which this generation was verified,
   and the content that the generation was installed from.
2. A chain of the site recorded that installation: the same bundle id, and the head of that custody log.
3. Every head that a chain noted of another when it was opened is still in that other chain: none was removed, cut back
   or begun anew.
4. Every closed ledger entry has its record with the same counts and times, and every such record its entry.
5. The sums that budgets are checked against are those of the entries, and every key of the database is as its records
   say: :mod:`plugsky.audit.key_proof`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from plugsky.audit.events import StoredKey
from plugsky.audit.key_proof import keys_speak
from plugsky.audit.matching import GROUPS, Compared, Matching, differing
from plugsky.audit.trail import Record
from plugsky_bundles.chain_lines import Position
from plugsky_bundles.errors import printable

MAX_TOLD: Final = 20


@dataclass(frozen=True)
class InstalledBundle:
    """The bundle that a generation of the site was installed from, by its ``bundle.json``."""

    number: int
    channel: str
    version: int
    bundle_id: str
    content_id: str
    root_fingerprint: str


@dataclass(frozen=True)
class Custody:
    """The custody log beside a generation: whether it is whole, its head, its records."""

    generation: InstalledBundle
    whole: bool
    head: str
    records: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Mention:
    """A chain's note, when it was opened, of where another chain stood."""

    by: str
    seq: int
    chain: str
    position: Position


class MonthSums(Protocol):
    """A tenant's sums of one month in tokens, as ``access.ledger`` gives them."""

    @property
    def tenant(self) -> str: ...
    @property
    def month(self) -> str: ...
    @property
    def used(self) -> int: ...
    @property
    def reserved(self) -> int: ...
    @property
    def used_by_entries(self) -> int: ...
    @property
    def reserved_by_entries(self) -> int: ...


@dataclass
class Evidence:
    """All that was read. ``positions`` holds, by chain and number, the hashes of the lines that mentions ask for.

    ``matching`` counted every request, ``compared`` are those to be compared one by one, and ``beyond`` says how many
    groups of further ones differ.
    """

    settled_before_us: int
    matching: Matching
    custody: list[Custody] = field(default_factory=list)
    installs: list[Record] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    positions: dict[str, dict[int, str]] = field(default_factory=dict)
    compared: Compared = field(default_factory=Compared)
    beyond: int = 0
    sums: tuple[MonthSums, ...] = ()
    keys: tuple[StoredKey, ...] = ()
    key_changes: list[Record] = field(default_factory=list)

    def wanted(self, chain: str) -> frozenset[int]:
        """The numbers of the lines of ``chain`` that other chains noted."""
        return frozenset(mention.position.seq for mention in self.mentions if mention.chain == chain)


def prove(evidence: Evidence) -> tuple[list[str], list[str]]:
    """What was proven, in order, and what speaks against it."""
    links: list[str] = []
    problems: list[str] = []
    for custody in evidence.custody:
        _origin(custody, links, problems)
        _installation(custody, evidence.installs, links, problems)
    _mentions(evidence, links, problems)
    _ledger(evidence, links, problems)
    problems.extend(_some([sentence for sums in evidence.sums for sentence in _wrong_sums(sums)]))
    wrong = keys_speak(evidence.keys, evidence.key_changes, evidence.matching.used_keys, evidence.settled_before_us)
    problems.extend(_some(wrong))
    if not wrong:
        links.append(
            f"the API keys of the database ({len(evidence.keys)}) are as the records of their making and end say"
        )
    return links, problems


def _origin(custody: Custody, links: list[str], problems: list[str]) -> None:
    generation = custody.generation
    name = f"generation {generation.number}"
    if not custody.whole:
        return  # said where the log itself was verified
    first = custody.records[0] if custody.records else {}
    roots = [record.get("root_fingerprint") for record in custody.records]
    if first.get("event") != "trust.init" or generation.root_fingerprint not in roots:
        problems.append(f"the custody log of {name} does not lead from trust init to the root it was verified by")
        return
    if not any(record.get("content_id") == generation.content_id for record in custody.records):
        problems.append(f"the custody log of {name} does not name the content {generation.content_id[:16]} it holds")
        return
    links.append(
        f"the custody log from trust init ({first.get('at', '')}) on names root {generation.root_fingerprint[:16]} and "
        f"content {generation.content_id[:16]}, which {name} was verified by and installed from"
    )


def _installation(custody: Custody, installs: Iterable[Record], links: list[str], problems: list[str]) -> None:
    generation = custody.generation
    for record in installs:
        fields = record.fields
        if fields.get("generation") != generation.number:
            continue
        same = fields.get("bundle_id") == generation.bundle_id and fields.get("content_id") == generation.content_id
        if same and (not custody.whole or fields.get("custody_head") == custody.head):
            links.append(
                f"{record.chain} recorded at {record.time} that bundle {generation.bundle_id[:16]} with that custody "
                f"log was installed as generation {generation.number}"
            )
            return
    problems.append(
        f"no record of the site names bundle {generation.bundle_id[:16]} and its custody log for generation "
        f"{generation.number}"
    )


def broken_mentions(evidence: Evidence) -> list[str]:
    """The heads that chains noted of each other and that are not where they were."""
    return [
        f"{mention.chain} stood at line {mention.position.seq} when {mention.by} was opened (line {mention.seq}), and "
        f"that line is {'gone: the chain was removed, cut or replaced' if found is None else 'another now'}"
        for mention in evidence.mentions
        if (found := evidence.positions.get(mention.chain, {}).get(mention.position.seq)) != mention.position.hash
    ]


def _mentions(evidence: Evidence, links: list[str], problems: list[str]) -> None:
    broken = broken_mentions(evidence)
    problems.extend(_some(broken))
    if evidence.mentions and not broken:
        links.append(f"{len(evidence.mentions)} heads that chains noted of each other are all in place")


def _ledger(evidence: Evidence, links: list[str], problems: list[str]) -> None:
    wrong: list[str] = []
    recorded: set[str] = set()
    for record in evidence.compared.records:
        entry = evidence.compared.entries.get(record.subject)
        where = f"request {record.subject} ({record.chain}, line {record.seq})"
        if entry is None:
            wrong.append(f"{where} is recorded, but the ledger has no closed entry of it")
            continue
        if record.subject in recorded:
            wrong.append(f"{where} is recorded a second time")
        recorded.add(record.subject)
        if names := differing(record, entry):
            wrong.append(f"{where} differs from its ledger entry in {', '.join(names)}")
    missing = [
        f"the ledger entry of request {job} has no audit record"
        for job, entry in evidence.compared.entries.items()
        if job not in recorded and entry.settled_us < evidence.settled_before_us
    ]
    problems.extend((*_some(wrong), *_some(missing)))
    if missing:
        problems.append("where a gateway was killed, its next start completes the trail: start it, then verify again")
    if evidence.beyond:
        problems.append(
            f"ledger and trail differ in still more requests: of {GROUPS} groups that they fall into, in "
            f"{evidence.beyond} beyond those named here"
        )
    if not wrong and not missing and not evidence.beyond:
        seen, waiting = evidence.matching, len(evidence.compared.entries.keys() - recorded)
        links.append(
            f"{seen.entries - waiting} closed ledger entries ({seen.tokens} tokens) and {seen.records} request "
            "records: each has the other, with equal counts and times"
        )


def _wrong_sums(sums: MonthSums) -> Iterator[str]:
    for name, kept, made in (
        ("used", sums.used, sums.used_by_entries),
        ("reserved", sums.reserved, sums.reserved_by_entries),
    ):
        if kept != made:
            yield (
                f"the budget of tenant {printable(sums.tenant)} in {printable(sums.month)} counts {kept} tokens as "
                f"{name}, and its ledger entries {made}"
            )


def _some(sentences: list[str]) -> list[str]:
    """At most :data:`MAX_TOLD` of them, and how many more there are."""
    rest = len(sentences) - MAX_TOLD
    return [*sentences[:MAX_TOLD], f"and {rest} more of that kind"] if rest > 0 else sentences
