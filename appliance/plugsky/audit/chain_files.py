"""The chains of a site as files that are read at a place, and on from a place."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, Self

from plugsky.audit.trail import CHAIN_FILE, Record, as_record, damaged
from plugsky.core.clock import rfc3339
from plugsky_bundles.chain_lines import MAX_LINE, Line, read_line
from plugsky_bundles.errors import VerificationError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Known:
    """How far a chain was read: its last record stands from byte ``last`` to ``until``, with the hash ``hash``, and is
    of the time ``at``, in milliseconds since the Unix epoch.
    """

    name: str
    last: int = 0
    until: int = 0
    hash: str = ""
    at: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A record, and the chain as it is known with it."""

    chain: Known
    record: Record


class ChainFiles:
    """The chains under ``audit``, opened as they are asked for."""

    def __init__(self, audit: Path) -> None:
        self._audit = audit
        self._open: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, chain: str, place: int, at: int) -> Record:
        """The record at byte ``place``; one without a time is told with ``at``. Raises TAMPERED for what is none."""
        line = self._line(chain, place)
        record = as_record(chain, line)
        return record if record.time else replace(record, time=rfc3339(_EPOCH + timedelta(milliseconds=at)))

    def still_has(self, chain: Known) -> bool:
        """Whether the line that was read last is where it was."""
        if not chain.until:
            return True
        try:
            file = self._file(chain.name)
        except OSError:
            return False
        file.seek(chain.last)
        return hashlib.sha256(file.read(chain.until - chain.last)).hexdigest() == chain.hash

    def behind(self, chain: Known) -> Iterator[Written]:
        """The records behind what is known, oldest first; a last line that is still being written is not there yet.

        Raises TAMPERED at a line that is none.
        """
        place, at = chain.until, chain.at
        file = self._file(chain.name)
        while True:
            file.seek(place)
            raw = file.readline(MAX_LINE + 1)
            if not raw.endswith(b"\n") and len(raw) <= MAX_LINE:
                return
            line = _parsed(chain.name, raw)
            end = place + len(raw)
            if line.kind == "record":
                record = as_record(chain.name, line)
                at = milliseconds(record.time, at)
                yield Written(Known(chain.name, place, end, line.hash, at), record)
            place = end

    def _line(self, chain: str, place: int) -> Line:
        file = self._file(chain)
        file.seek(place)
        return _parsed(chain, file.readline(MAX_LINE + 1))

    def _file(self, chain: str) -> BinaryIO:
        if chain not in self._open:
            self._open[chain] = self._stack.enter_context((self._audit / chain / CHAIN_FILE).open("rb"))
        return self._open[chain]


def milliseconds(time: str, otherwise: int) -> int:
    """An RFC 3339 time in whole milliseconds since the Unix epoch; ``otherwise`` for a text that is none."""
    try:
        return (datetime.fromisoformat(time) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, TypeError):
        return otherwise


def _parsed(chain: str, raw: bytes) -> Line:
    try:
        return read_line(raw)
    except VerificationError as error:
        raise damaged(chain, error) from error
