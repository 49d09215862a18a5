"""Reading the audit trail: which chains there are, their records, a search over them.

Reading here trusts the files; :mod:`plugsky.audit.verify` is what proves them. Chains are read from their ends, so
that recent records cost the same however long the trail is. A last line that is still being written is not there yet;
any other line that cannot be read is a damaged trail and says so.
"""

import hashlib
import heapq
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from plugsky.audit.events import Fact
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_bundles.chain_lines import Line, Position, read_line
from plugsky_bundles.errors import VerificationError

CHAIN_FILE: Final = "chain.jsonl"
_COMMIT: Final = b'{"commit":'
_STEP: Final = 64 * 1024
_MAX_TAIL: Final = 8 << 20


@dataclass(frozen=True)
class Record:
    """One record of one chain. ``hash`` is that of its line."""

    chain: str
    seq: int
    time: str
    actor: str
    action: str
    subject: str
    outcome: str
    fields: dict[str, Fact]
    hash: str


def chain_names(audit: Path) -> list[str]:
    """The names of the site's chains, sorted."""
    if not audit.is_dir():
        return []
    return sorted(entry.name for entry in audit.iterdir() if (entry / CHAIN_FILE).is_file())


def as_record(chain: str, line: Line) -> Record:
    """A chain's line as a record; facts that a writer of ours did not make are shown empty, never guessed."""
    body = line.body
    fields = body.get("fields")
    time, actor, action, subject, outcome = (
        _text(body, name) for name in ("time", "actor", "action", "subject", "outcome")
    )
    # The chain itself notes a recovery with a field of its own.
    action = action or _text(body, "event")
    return Record(
        chain, line.seq, time, actor, action, subject, outcome, fields if isinstance(fields, dict) else {}, line.hash
    )


def records(audit: Path, chain: str) -> Iterator[Record]:
    """The records of one chain, newest first. Raises TAMPERED at a line that is none.

    What the chain notes of itself has no time; it is shown with that of the record after it, or else before it.
    """
    time = ""
    untimed: list[Record] = []
    for record in _as_written(audit, chain):
        if record.time:
            time = record.time
            yield from (replace(held, time=time) for held in untimed)
            untimed.clear()
            yield record
        elif time:
            yield replace(record, time=time)
        else:
            untimed.append(record)
    yield from untimed


def _as_written(audit: Path, chain: str) -> Iterator[Record]:
    with (audit / chain / CHAIN_FILE).open("rb") as file:
        for raw in _lines_backwards(file):
            try:
                line = read_line(raw)
            except VerificationError as error:
                raise damaged(chain, error) from error
            if line.kind == "record":
                yield as_record(chain, line)


def search(
    audit: Path, text: str = "", action: str = "", since: str | None = None, limit: int = 100
) -> tuple[Record, ...]:
    """The newest records first: of ``action`` (whole, or a prefix before a dot), at or after ``since`` (RFC 3339 as
    :func:`plugsky.core.clock.rfc3339` writes it), with ``text`` anywhere in them, whatever its case.
    """
    wanted = text.casefold()
    newest_first = heapq.merge(
        *(records(audit, chain) for chain in chain_names(audit)), key=lambda record: record.time, reverse=True
    )
    found = (
        record
        for record in newest_first
        if (not action or record.action == action or record.action.startswith(f"{action}."))
        and (since is None or record.time >= since)
        and (not wanted or any(wanted in part.casefold() for part in _parts(record)))
    )
    return tuple(itertools.islice(found, limit))


def damaged(chain: str, error: VerificationError) -> PlugskyError:
    """What is raised at a line that is none."""
    return PlugskyError(
        ErrorKind.TAMPERED, f"the audit chain {chain} is damaged", why=error.why, next="plugsky audit verify"
    )


def newest_commit(path: Path) -> Position | None:
    """The newest signed line of a chain, found from its end; None where none is within reach."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    with file:
        for raw in _lines_backwards(file, at_most=_MAX_TAIL):
            if raw.startswith(_COMMIT):
                return _position(raw)
    return None


def _lines_backwards(file: BinaryIO, at_most: int | None = None) -> Iterator[bytes]:
    """The whole lines of a file from its last to its first, within its last ``at_most`` bytes."""
    start = file.seek(0, os.SEEK_END)
    stop = 0 if at_most is None else max(0, start - at_most)
    rest: bytes | None = None
    while start > stop:
        end, start = start, max(stop, start - _STEP)
        file.seek(start)
        first, *lines = file.read(end - start).split(b"\n")
        if lines:
            if rest is not None:  # else what stands behind the last newline is still being written
                yield lines[-1] + rest + b"\n"
            for line in reversed(lines[:-1]):
                yield line + b"\n"
            rest = first
        else:
            rest = None if rest is None else first + rest
    if stop == 0 and rest is not None:
        yield rest + b"\n"


def _position(raw: bytes) -> Position | None:
    try:
        return Position(read_line(raw).seq, hashlib.sha256(raw).hexdigest())
    except VerificationError:
        return None


def _parts(record: Record) -> Iterator[str]:
    yield from (record.actor, record.action, record.subject, record.outcome)
    for name, value in record.fields.items():
        yield f"{name}={value}"


def _text(body: Any, name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""
