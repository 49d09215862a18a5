"""Brings a database to this release's schema when it is opened.

A database at :data:`HEAD` is taken as it is, in one query. Otherwise the steps run under a lock (one process migrates,
the others wait) in one transaction, so that an interrupted first start leaves nothing half made and the next start
completes it. A revision this release does not know was made by a later one; the schema only grows, so it is taken too.
A database without any revision is about to begin: whether it may is asked of the caller first.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, inspect, text

from plugsky_bundles.sharing import open_private

HEAD: Final = "0006"
MIGRATIONS: Final = Path(__file__).with_name("migrations")
TAKE_TURN: Final = text(f"SELECT pg_advisory_xact_lock({0x706C7567736B79})")
"""What every writing transaction of a PostgreSQL database says first. The lock's number is ``plugsky`` in ASCII."""


def migrate(engine: Engine, lock: Path | None, beginning: Callable[[], None]) -> None:
    """Runs what is missing. ``lock`` is the file to hold meanwhile; None where the database itself locks.

    ``beginning`` is called before the first table is made; what it raises leaves the database as it is.
    """
    with engine.connect() as connection:
        if _revision(connection) == HEAD:
            return
    with held(lock) if lock else nullcontext(), engine.execution_options(plugsky_writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(TAKE_TURN)
        _upgrade(connection, beginning)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection, beginning: Callable[[], None]) -> None:
    # Alembic costs a fifth of a second to import; a start that finds the schema in place does without.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = _revision(connection)
    if current is not None and current not in known:
        return
    if current is None:
        beginning()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """The lock under which a database is made and migrated, in this process alone."""
    handle = open_private(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
