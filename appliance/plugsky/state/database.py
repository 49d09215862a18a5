"""The connection to the site's database, and how a transaction begins.

Guarantees: a database that was opened has this release's schema (or a later one, which is additive). On SQLite the file
is the site's alone (:mod:`plugsky_bundles.sharing`), journalled ahead (WAL), durable at every commit
(``synchronous=FULL``: what the audit trail names is never missing from the ledger after a power cut), checks foreign
keys, and waits for another writer instead of failing. A writing transaction takes the write lock when it begins
(``BEGIN IMMEDIATE``), so that it never learns halfway that it may not write. PostgreSQL is opened by URL through the
same code and with the same promises: a writing transaction of any process takes one advisory lock first, a reading one
sees one moment (REPEATABLE READ). Its password is libpq's business (a ``.pgpass`` file, or the peer of a Unix socket)
and never in the URL.

A database begins once: where none is, or an empty one, the caller is asked first whether this site may have none.

Database failures leave here as :class:`PlugskyError` without the statement or its values: TAMPERED for damage (no
database, a table that is gone, a page that cannot be true), OVERLOADED for what may pass (a lock, a full disk).
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoResultFound
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.state.migrate import TAKE_TURN, held, migrate
from plugsky_bundles.sharing import open_private

BUSY_TIMEOUT_MS: Final = 10_000
CONNECT_S: Final = 5
SCHEMES: Final = ("postgresql", "postgresql+psycopg")
_WRITES: Final = "plugsky_writes"
_DAMAGE: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB})
"""SQLite's primary result codes (sqlite.org/rescode.html) that no second try mends. The statements are ours and right,
so the generic one says that the schema is not."""
_GONE: Final = frozenset({"42P01", "42703", "3F000"})
"""PostgreSQL's codes for a table, a column or a schema that is not there."""
RESTORE: Final = "stop the site, restore its state/ directory from the backup, then: plugsky audit verify"


class Database:
    """Sessions over one engine. Safe to share between threads; every session is one transaction of one thread."""

    def __init__(self, engine: Engine, where: str) -> None:
        self.engine = engine
        self.where = where
        self._writing = engine.execution_options(**{_WRITES: True})
        one_moment = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reading = engine.execution_options(**one_moment)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads one moment of the database."""
        with _named_failures(self.where), Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits when the block ends and leaves no trace when it raises."""
        with _named_failures(self.where), Session(self._writing, expire_on_commit=False) as session, session.begin():
            if self.engine.dialect.name == "postgresql":
                session.execute(TAKE_TURN)
            yield session

    def close(self) -> None:
        """Gives the connections back."""
        self.engine.dispose()


def open_database(url_or_path: str | Path, beginning: Callable[[], None] = lambda: None) -> Database:
    """The database at a file path or an SQLAlchemy URL, made or completed where needed.

    ``beginning`` is called before a new one is made, and raises where there must be one already. Raises
    :class:`PlugskyError` when it cannot be opened, is no database, or cannot be migrated.
    """
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        path = Path(url_or_path)
        where, lock = str(path), path.with_name(path.name + ".lock")
        _make_private_file(path, lock, beginning)
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        _prepare_sqlite(engine)
    else:
        where, lock = url_or_path, None
        engine = _postgres(url_or_path)
    database = Database(engine, where)
    try:
        with _named_failures(where):
            migrate(engine, lock, beginning)
    except BaseException:
        database.close()
        raise
    return database


def _postgres(text: str) -> Engine:
    try:
        url = make_url(text)
    except ArgumentError:
        raise _unusable("it is no URL") from None
    if url.drivername not in SCHEMES:
        raise _unusable(f"it names {url.drivername}")
    if url.password is not None:
        raise _unusable("it holds a password, which everybody sees who may list processes")
    limits = f"-c lock_timeout={BUSY_TIMEOUT_MS} -c idle_in_transaction_session_timeout={6 * BUSY_TIMEOUT_MS}"
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",  # what others commit while this one waits for the lock is seen behind it
        connect_args={"connect_timeout": CONNECT_S, "application_name": "plugsky", "options": limits},
    )


def _unusable(why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.BAD_REQUEST,
        "the database cannot be used",
        why=why,
        next="give a path, or postgresql://USER@HOST/NAME and its password in ~/.pgpass",
        param="database",
    )


def _make_private_file(path: Path, lock: Path, beginning: Callable[[], None]) -> None:
    """An empty file of the site where none is; SQLite gives its journal files the mode of the database."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with held(lock):
                if not path.exists():  # else another process has begun it meanwhile, and maybe used it
                    beginning()
                os.close(open_private(path, os.O_RDWR))
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise PlugskyError(
            ErrorKind.INTERNAL,
            f"the database {path} cannot be opened",
            why=error.strerror or type(error).__name__,
            next="run the command as the owner of the site, or give --root the directory of yours",
        ) from error


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _named_failures(where: str) -> Iterator[None]:
    try:
        yield
    except NoResultFound:
        raise _damaged(where, "a row that others name is gone") from None
    except NoConnection:
        raise _not_taken(where, "all its connections are in use") from None
    except DBAPIError as error:
        why = f"{type(error.orig).__name__}: {_said(error)}"
        if _is_damage(error):
            raise _damaged(where, why) from None
        if isinstance(error, DataError):
            raise PlugskyError(ErrorKind.BAD_REQUEST, "a value cannot be kept", why=why) from None
        raise _not_taken(where, why) from None


def _not_taken(where: str, why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.OVERLOADED,
        "the site's database did not take the transaction",
        why=f"{where}: {why}",
        next="plugsky doctor",
        retry_after=1.0,
    )


def _said(error: DBAPIError) -> str:
    """What the database says, without the values that PostgreSQL adds as details."""
    diagnosis = getattr(error.orig, "diag", None)
    told = getattr(diagnosis, "message_primary", None) or str(error.orig)
    return " ".join(told.split())


def _is_damage(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None:
        return getattr(error.orig, "sqlstate", None) in _GONE
    return code & 0xFF in _DAMAGE


def _damaged(where: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.TAMPERED, "the site's database is damaged", why=f"{where}: {why}", next=RESTORE)
