"""Reading the audit trail: which chains there are, their records, a search over them.

Reading here trusts the files; :mod:`plugsky.audit.verify` is what proves them. A search scans every record once and
keeps only the newest it was asked for. A last line that is still being written is not there yet; any other line that
cannot be read is a damaged trail and says so.
"""

import hashlib
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
    """The records of one chain, oldest first. Raises TAMPERED at a line that is none."""
    with (audit / chain / CHAIN_FILE).open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            try:
                line = read_line(raw)
            except VerificationError as error:
                raise PlugskyError(
                    ErrorKind.TAMPERED,
                    f"the audit chain {chain} is damaged",
                    why=error.why,
                    next="plugsky audit verify",
                ) from error
            if line.kind == "record":
                yield as_record(chain, line)


def search(
    audit: Path, text: str = "", action: str = "", since: str | None = None, limit: int = 100
) -> tuple[Record, ...]:
    """The newest records first: of ``action`` (whole, or a prefix before a dot), at or after ``since`` (RFC 3339 as
    :func:`plugsky.core.clock.rfc3339` writes it), with ``text`` anywhere in them, whatever its case.
    """
    wanted = text.casefold()
    found = (
        record
        for chain in chain_names(audit)
        for record in records(audit, chain)
        if (not action or record.action == action or record.action.startswith(f"{action}."))
        and (since is None or record.time >= since)
        and (not wanted or any(wanted in part.casefold() for part in _parts(record)))
    )
    return tuple(heapq.nlargest(limit, found, key=lambda record: (record.time, record.chain, record.seq)))


def newest_commit(path: Path) -> Position | None:
    """The newest signed line of a chain, found from its end; None where none is within reach."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    with file:
        size = file.seek(0, os.SEEK_END)
        reach = _STEP
        while True:
            start = max(0, size - reach)
            file.seek(start)
            lines = file.read(size - start).splitlines(keepends=True)
            for raw in reversed(lines if start == 0 else lines[1:]):
                if raw.startswith(_COMMIT) and raw.endswith(b"\n"):
                    return _position(raw)
            if start == 0 or reach >= _MAX_TAIL:
                return None
            reach *= 8


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
