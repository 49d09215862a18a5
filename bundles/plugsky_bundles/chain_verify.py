"""Checking a hash-chained log from its first line to its last.

What is checked, in order, for every line: it parses and is canonical; its number follows; its `prev` is the hash of the
line before. The first line must be a genesis whose key is trusted; each commit must name the line before it; the
last commit's signature must fit, and through the hashes it covers every line above it. When it does not, each commit
is checked to say where the log stops being what was signed. Lines after the last commit are covered by nothing: an
error, unless the log is still being written (`open_tail`).

Cutting a log exactly behind an earlier commit leaves a log that is right in itself. Only a witness can tell: pass the
position that it saw as `expect`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from securesystemslib.signer import SSlibKey

from plugsky_bundles import dsse
from plugsky_bundles.chain_lines import (
    HEAD_TYPE,
    MAX_LINE,
    START,
    Line,
    Position,
    head_payload,
    read_genesis,
    read_line,
)
from plugsky_bundles.errors import ChainError, NotFound, VerificationError

_KEEP = "Keep the file as evidence and compare it with a copy made earlier"


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a chain holds. `head`: its last commit; `uncommitted`: records behind it (0 unless `open_tail`)."""

    origin: str
    keyid: str
    records: int
    commits: int
    head: Position
    uncommitted: int = 0


def verify_chain(
    source: Path | BinaryIO,
    trusted_keyids: Collection[str] | None = None,
    *,
    follows: Position = START,
    expect: Position | None = None,
    open_tail: bool = False,
    on_record: Callable[[Line], None] | None = None,
) -> ChainReport:
    """Check a chain and say what it holds.

    `trusted_keyids`: the keys whose chain it may be; None takes the key of the first line at its word. `follows`: the
    last position of the segment before. `expect`: a position that a witness saw, which must be in the chain.
    `on_record` sees each record as it is checked, before the signature is. Raises ChainError, or NotFound for a path.
    """
    if isinstance(source, Path):
        with _open(source) as file:
            return verify_chain(
                file, trusted_keyids, follows=follows, expect=expect, open_tail=open_tail, on_record=on_record
            )
    walk = _Walk(source, follows, open_tail)
    first = walk.next()
    if first is None:
        walk.refuse("it is empty")
    try:
        key, origin = read_genesis(first)
    except VerificationError as error:
        walk.refuse(error.why)
    if trusted_keyids is not None and key.keyid not in trusted_keyids:
        walk.refuse(f"it is signed by {key.keyid}, which is not trusted here")
    seen_expected = expect in (None, follows, first.position)
    records = commits = pending = 0
    commit: tuple[Line, Position] | None = None
    before = first.position
    while (line := walk.next()) is not None:
        if line.kind == "genesis":
            walk.refuse("a second genesis stands inside it")
        if line.kind == "commit":
            commit = (line, before)
            commits, pending = commits + 1, 0
        else:
            records, pending = records + 1, pending + 1
            if on_record is not None:
                on_record(line)
        seen_expected = seen_expected or line.position == expect
        before = line.position
    if commit is None:
        walk.refuse("nothing in it is signed")
    if not commit_fits(commit[0], commit[1], key, origin):
        _locate(source, walk.start, key, origin)
    if pending and not open_tail:
        walk.refuse(f"the last {pending} records are not covered by a signature: the log was cut or edited")
    if not seen_expected:
        walk.refuse("the line that a witness saw is not in it: the log was cut or replaced")
    return ChainReport(origin, key.keyid, records, commits, commit[0].position, pending)


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        raise NotFound(f"There is no log {path}", "the file does not exist", "Check the path") from None


class _Walk:
    """Lines in order, each checked against the one before."""

    def __init__(self, file: BinaryIO, follows: Position, open_tail: bool) -> None:
        self.file, self.start, self.before, self.open_tail = file, file.tell(), follows, open_tail
        self.offset = self.start

    def next(self) -> Line | None:
        raw = self.file.readline(MAX_LINE + 1)
        if not raw:
            return None
        if not raw.endswith(b"\n"):
            if self.open_tail and len(raw) <= MAX_LINE:
                return None
            self.refuse("its last line is cut short" if len(raw) <= MAX_LINE else "a line is too long")
        try:
            line = read_line(raw)
        except VerificationError as error:
            self.refuse(f"the line was changed: {error.why}")
        expected = self.before.seq + 1
        if line.seq != expected:
            self.refuse(self._misplaced(line.seq, expected))
        if line.prev != self.before.hash:
            self.refuse("the line before it, or its link to that line, was changed")
        self.before = line.position
        self.offset += len(raw)
        return line

    def _misplaced(self, found: int, expected: int) -> str:
        if found < expected:
            return f"line {found} stands where line {expected} belongs: lines were repeated or reordered"
        try:
            reordered = read_line(self.file.readline(MAX_LINE + 1)).seq == expected
        except VerificationError:
            reordered = False
        return (
            f"line {found} stands where line {expected} belongs: lines were {'reordered' if reordered else 'removed'}"
        )

    def refuse(self, why: str) -> NoReturn:
        seq = self.before.seq + 1
        raise ChainError(
            f"The log is not intact at line {seq} (byte {self.offset})", why, _KEEP, seq=seq, offset=self.offset
        )


def commit_fits(commit: Line, before: Position, key: SSlibKey, origin: str) -> bool:
    """Whether `commit` is the signature of `key` over the line `before`."""
    try:
        payload = dsse.verify(dict(commit.body), key, HEAD_TYPE)
    except VerificationError:
        return False
    return payload == head_payload(origin, before)


def _locate(source: BinaryIO, start: int, key: SSlibKey, origin: str) -> NoReturn:
    """The last signature does not fit: name the first line that no good signature covers."""
    source.seek(start)
    offset = good_offset = start
    good = -1
    before = START
    for raw in source:
        line = read_line(raw)
        offset += len(raw)
        if line.kind == "commit":
            if not commit_fits(line, before, key, origin):
                break
            good, good_offset = line.seq, offset
        before = line.position
    raise ChainError(
        f"The log is not intact from line {good + 1} (byte {good_offset}) on",
        "no signature of its key fits the lines from there: they were edited and the hashes recomputed",
        _KEEP,
        seq=good + 1,
        offset=good_offset,
    )
