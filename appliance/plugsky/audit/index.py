"""An index of the trail, so that a search costs the same however long the trail is.

It lies in ``audit/index.db`` and may be removed at any time: a search first takes in what the chains have more than it,
and begins anew where it is of another trail. It only says where to look. What is shown is read from the chains and
asked again, so a false index can show nothing false; what it hid, ``plugsky audit verify`` still sees, which asks no
index.

A record's number is its time in milliseconds with a count within it, so that the numbers of all chains together are in
the order of time. Words are kept in an FTS5 table without their places and without the text.
"""

import heapq
import itertools
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from plugsky.audit.chain_files import ChainFiles, Known, Written, milliseconds
from plugsky.audit.query import Query, words_in
from plugsky.audit.trail import Record, chain_names, records
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_bundles.sharing import open_private

INDEX: Final = "index.db"
GROUP: Final = 10_000
"""Records that one transaction takes in."""
PATIENCE_S: Final = 60.0
_VERSION: Final = 1
_SHIFT: Final = 12
_LATEST: Final = (1 << 63) - 1
_MAX_WORD: Final = 64
_TABLES: Final = (
    """CREATE TABLE chain (id INTEGER PRIMARY KEY, name TEXT UNIQUE, last INTEGER DEFAULT 0, until INTEGER DEFAULT 0,
       hash TEXT DEFAULT '', at INTEGER DEFAULT 0)""",
    "CREATE TABLE line (id INTEGER PRIMARY KEY, chain INTEGER, place INTEGER)",
    "CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, detail=none, tokenize='ascii')",
    f"PRAGMA user_version = {_VERSION}",
)
_BY_TIME: Final = {
    True: "SELECT id, chain, place FROM line WHERE id BETWEEN ? AND ? ORDER BY id",
    False: "SELECT id, chain, place FROM line WHERE id BETWEEN ? AND ? ORDER BY id DESC",
}
_BY_WORDS: Final = {
    True: """SELECT line.id, chain, place FROM words CROSS JOIN line ON line.id = words.rowid
             WHERE words MATCH ? AND words.rowid BETWEEN ? AND ? ORDER BY words.rowid""",
    False: """SELECT line.id, chain, place FROM words CROSS JOIN line ON line.id = words.rowid
              WHERE words MATCH ? AND words.rowid BETWEEN ? AND ? ORDER BY words.rowid DESC""",
}
_log: Final = logging.getLogger(__name__)


def find(audit: Path, query: Query, *, oldest_first: bool = False) -> Iterator[Record]:
    """The records of the trail that ``query`` asks for, newest first or oldest first. Raises TAMPERED at a line that is
    none. Where no index can be kept (no room, no right to write), the chains themselves are read.
    """
    if not chain_names(audit):
        return
    try:
        _update(audit)
    except sqlite3.OperationalError as error:
        _log.warning("the trail is searched without its index: %s", error)
        yield from _without_index(audit, query, oldest_first=oldest_first)
        return
    try:
        with _opened(audit) as index, ChainFiles(audit) as files:
            names = dict(index.execute("SELECT id, name FROM chain"))
            for number, chain, place in index.execute(*_statement(query, oldest_first=oldest_first)):
                record = files.read(names[chain], place, number >> _SHIFT)
                if query.fits(record):
                    yield record
    except sqlite3.DatabaseError as error:
        raise PlugskyError(
            ErrorKind.INTERNAL,
            "the index of the audit trail cannot be read",
            why=str(error),
            next=f"rm {audit / INDEX}, then search again: it is made anew from the trail",
        ) from error


def _update(audit: Path) -> None:
    try:
        with _opened(audit) as index:
            _catch_up(index, audit)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        _log.warning("the index of the audit trail is made anew: %s", error)
        for path in audit.glob(f"{INDEX}*"):
            path.unlink(missing_ok=True)
        with _opened(audit) as index:
            _catch_up(index, audit)


def _without_index(audit: Path, query: Query, *, oldest_first: bool) -> Iterator[Record]:
    newest_first = heapq.merge(
        *(records(audit, chain) for chain in chain_names(audit)), key=lambda record: record.time, reverse=True
    )
    found = (record for record in newest_first if query.fits(record))
    yield from reversed(list(found)) if oldest_first else found


@contextmanager
def _opened(audit: Path) -> Iterator[sqlite3.Connection]:
    path = audit / INDEX
    try:
        os.close(open_private(path, os.O_RDWR | os.O_NOFOLLOW))
    except OSError as error:
        raise sqlite3.OperationalError(error.strerror) from error
    with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as index:
        if _version(index) != _VERSION:
            index.execute("PRAGMA journal_mode = WAL")
            with _transaction(index):
                if _version(index) == 0:
                    for statement in _TABLES:
                        index.execute(statement)
            if _version(index) != _VERSION:
                raise sqlite3.DatabaseError("it was made by another release")
        yield index


def _version(index: sqlite3.Connection) -> int:
    (version,) = index.execute("PRAGMA user_version").fetchone()
    return int(version)


@contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")


def _catch_up(index: sqlite3.Connection, audit: Path) -> None:
    """Takes in what the chains have more than the index, in the order of time."""
    more = True
    while more:
        with _transaction(index), ChainFiles(audit) as files:
            known = [Known(*row) for row in index.execute("SELECT name, last, until, hash, at FROM chain")]
            if not all(files.still_has(chain) for chain in known):
                index.execute("DELETE FROM chain")
                index.execute("DELETE FROM line")
                index.execute("INSERT INTO words (words) VALUES ('delete-all')")
                known = []
            old = {chain.name for chain in known}
            new = [Known(name) for name in chain_names(audit) if name not in old]
            index.executemany("INSERT INTO chain (name) VALUES (?)", ((chain.name,) for chain in new))
            ahead = heapq.merge(*(files.behind(chain) for chain in (*known, *new)), key=lambda line: line.chain.at)
            more = _take(index, itertools.islice(ahead, GROUP)) == GROUP


def _take(index: sqlite3.Connection, lines: Iterable[Written]) -> int:
    """Writes ``lines`` into the index, and how far each chain has come with them; how many they were."""
    numbers = dict(index.execute("SELECT name, id FROM chain"))
    newest: dict[str, Known] = {}
    free: dict[int, int] = {}
    taken = 0
    for line in lines:
        chain = newest[line.chain.name] = line.chain
        number = free[chain.at] = _number(index, chain.at, free)
        index.execute("INSERT INTO line VALUES (?, ?, ?)", (number, numbers[chain.name], chain.last))
        index.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, " ".join(_tokens(line.record))))
        taken += 1
    index.executemany(
        "UPDATE chain SET last = ?, until = ?, hash = ?, at = ? WHERE name = ?",
        ((chain.last, chain.until, chain.hash, chain.at, chain.name) for chain in newest.values()),
    )
    return taken


def _number(index: sqlite3.Connection, at: int, free: dict[int, int]) -> int:
    """The next number of that millisecond; those of a millisecond with very many go on in the one after."""
    number = free.get(at, (at << _SHIFT) - 1) + 1
    while index.execute("SELECT 1 FROM line WHERE id = ?", (number,)).fetchone():
        number += 1
    return number


def _tokens(record: Record) -> set[str]:
    parts = record.action.split(".")
    actions = {_action_token(".".join(parts[:count])) for count in range(1, len(parts) + 1)}
    return {_token(word) for word in words_in(record)} | actions


def _token(word: str) -> str:
    """A word as FTS5's ``ascii`` tokenizer takes it for one."""
    return (word if word.isascii() else _coded(word))[:_MAX_WORD]


def _coded(word: str) -> str:
    return "u" + word.encode("utf-8", "surrogatepass").hex()


def _action_token(action: str) -> str:
    return "a" + action.encode("utf-8", "surrogatepass").hex()


def _statement(query: Query, *, oldest_first: bool) -> tuple[str, tuple[object, ...]]:
    asked = [f'"{_token(word)}"' for word in sorted(query.indexed_words())]
    asked += [f'("{_token(word)}"* OR "{_coded(word)[:_MAX_WORD]}"*)' for word in query.beginnings]
    asked += [f'"{_action_token(query.action)}"'] if query.action else []
    since = -1 if query.since is None else milliseconds(query.since, -1) << _SHIFT
    until = _LATEST if query.until is None else (milliseconds(query.until, _LATEST >> _SHIFT) + 1) << _SHIFT
    if asked:
        return _BY_WORDS[oldest_first], (" AND ".join(asked), since, until)
    return _BY_TIME[oldest_first], (since, until)
