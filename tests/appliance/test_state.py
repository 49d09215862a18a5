"""The database: made, completed, migrated, and how its transactions behave."""

import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlmodel import SQLModel

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.state import ApiKey, Tenant, migrate, open_database
from plugsky.state.secrets import read_or_make, read_secret


def test_the_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path):
    database = open_database(tmp_path / "site.db")
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    database.close()


def test_the_newest_revision_is_the_head_the_code_names():
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(migrate.MIGRATIONS)).get_heads() == [migrate.HEAD]


def test_the_database_and_its_journal_are_closed_to_others(tmp_path: Path):
    database = open_database(tmp_path / "state" / "site.db")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    database.close()


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10_000)]
)
def test_sqlite_is_set_up_on_every_connection(tmp_path: Path, pragma: str, value: object):
    database = open_database(tmp_path / "site.db")
    with database.read() as session:
        assert session.execute(text(f"PRAGMA {pragma}")).scalar() == value
    database.close()


def test_an_empty_file_left_by_an_interrupted_start_is_completed(tmp_path: Path):
    (tmp_path / "site.db").touch(mode=0o600)
    database = open_database(tmp_path / "site.db")
    with database.write() as session:
        session.add(Tenant(id="demo", created_us=1))
    database.close()


@pytest.mark.integration
@pytest.mark.parametrize("statement", [1, 2, 3, 5, 8])
def test_a_first_start_killed_between_two_statements_is_completed_by_the_next(tmp_path: Path, statement: int):
    program = f"""
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from plugsky.state import open_database
seen = 0
@event.listens_for(Engine, "before_cursor_execute")
def count(connection, cursor, sql, parameters, context, many):
    global seen
    seen += sql.startswith(("CREATE", "\\nCREATE", "INSERT"))
    if seen == {statement}:
        os.kill(os.getpid(), signal.SIGKILL)
open_database(Path({str(tmp_path / "site.db")!r}))
"""
    child = subprocess.run([sys.executable, "-c", program], check=False)
    assert child.returncode == -signal.SIGKILL
    database = open_database(tmp_path / "site.db")
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    database.close()


def test_two_first_starts_at_once_make_one_database(tmp_path: Path):
    with ThreadPoolExecutor(4) as pool:
        for database in pool.map(open_database, [tmp_path / "site.db"] * 4):
            database.close()


def test_a_schema_of_a_later_release_is_taken_as_it_is(tmp_path: Path):
    open_database(tmp_path / "site.db").close()
    with sqlite3.connect(tmp_path / "site.db") as later:
        later.execute("ALTER TABLE tenant ADD COLUMN colour TEXT DEFAULT ''")
        later.execute("UPDATE alembic_version SET version_num = '0099'")
    later.close()
    database = open_database(tmp_path / "site.db")
    with database.write() as session:
        session.add(Tenant(id="demo", created_us=1))
    database.close()
    with sqlite3.connect(tmp_path / "site.db") as after:
        assert after.execute("SELECT version_num FROM alembic_version").fetchone() == ("0099",)
    after.close()


def test_a_database_of_the_first_release_is_brought_here_with_what_it_holds(tmp_path: Path):
    path = tmp_path / "site.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrate.MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    tenant = "INSERT INTO tenant (id, created_us, monthly_tokens, weight) VALUES ('demo', 1, 500, 2)"
    key = "INSERT INTO apikey (id, tenant, name, digest, created_us) VALUES ('aaaaaaaa', 'demo', '', x'00', 1)"
    with sqlite3.connect(path) as first:
        first.execute(tenant)
        first.execute(key)
    first.close()
    database = open_database(path)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    with database.read() as session:
        kept = session.get(Tenant, "demo")
        assert kept is not None
        assert (kept.monthly_tokens, kept.weight, kept.concurrency) == (500, 2, None)
    database.close()
    with sqlite3.connect(path) as former:  # the previous release goes on writing its rows into the new schema
        former.execute(tenant.replace("demo", "later"))
        former.execute(key.replace("aaaaaaaa", "bbbbbbbb").replace("demo", "later"))
    former.close()
    database = open_database(path)
    with database.read() as session:
        assert session.get(ApiKey, "bbbbbbbb") is not None
    database.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "site.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    before = path.read_bytes()
    with pytest.raises(PlugskyError) as refused:
        open_database(path)
    assert "not a database" in refused.value.why
    assert refused.value.kind is ErrorKind.TAMPERED
    assert "backup" in refused.value.next
    assert path.read_bytes() == before


def refuse() -> None:
    raise PlugskyError(ErrorKind.TAMPERED, "there was one")


@pytest.mark.parametrize("left", [None, b""], ids=["nothing", "an empty file"])
def test_a_database_that_may_not_begin_is_not_made(tmp_path: Path, left: bytes | None):
    path = tmp_path / "site.db"
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(PlugskyError, match="there was one"):
        open_database(path, refuse)
    assert path.exists() == (left is not None)
    if left is not None:
        with sqlite3.connect(path) as after:
            assert after.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
        after.close()


def test_a_database_that_has_begun_is_opened_without_asking(tmp_path: Path):
    open_database(tmp_path / "site.db").close()
    open_database(tmp_path / "site.db", refuse).close()


def test_a_dropped_table_is_damage_and_nothing_to_try_again(where: Path | str):
    database = open_database(where)
    with database.write() as session:
        session.execute(text("DROP TABLE apikey"))
    with pytest.raises(PlugskyError) as failed, database.read() as session:
        session.scalar(text("SELECT id FROM apikey"))
    assert failed.value.kind is ErrorKind.TAMPERED
    assert not failed.value.kind.value.retryable
    with pytest.raises(PlugskyError) as gone, database.read() as session:
        session.get_one(Tenant, "nobody")
    assert gone.value.kind is ErrorKind.TAMPERED
    database.close()


def test_a_full_disk_is_something_to_try_again(tmp_path: Path):
    database = open_database(tmp_path / "site.db")

    def fill() -> None:
        with database.write() as session:
            pages = session.scalar(text("PRAGMA page_count"))
            session.execute(text(f"PRAGMA max_page_count = {pages}"))
            session.add_all(Tenant(id=f"{number}{'x' * 3000}", created_us=1) for number in range(20))

    with pytest.raises(PlugskyError) as failed:
        fill()
    assert "full" in failed.value.why
    assert failed.value.kind is ErrorKind.OVERLOADED
    database.close()


def test_a_url_without_its_driver_says_which_form_to_give():
    with pytest.raises(PlugskyError) as refused:
        open_database("nosuchdatabase://somewhere/else")
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert "postgresql" in refused.value.next


def test_a_block_that_raises_leaves_no_trace(where: Path | str):
    database = open_database(where)

    def fail_halfway() -> None:
        with database.write() as session:
            session.add(Tenant(id="demo", created_us=1))
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    with database.read() as session:
        assert session.get(Tenant, "demo") is None
    database.close()


def test_writers_in_many_threads_wait_for_each_other(where: Path | str):
    database = open_database(where)
    with database.write() as session:
        session.add(Tenant(id="demo", created_us=0))

    def add() -> None:
        for _ in range(10):
            with database.write() as session:
                session.get_one(Tenant, "demo").created_us += 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(Tenant, "demo").created_us == 40
    database.close()


def test_a_failure_of_the_database_says_neither_statement_nor_values(where: Path | str):
    database = open_database(where)
    with pytest.raises(PlugskyError) as failed, database.write() as session:
        session.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "hunter2"})
    assert failed.value.kind is ErrorKind.TAMPERED
    assert "hunter2" not in f"{failed.value.what} {failed.value.why}"
    database.close()


def test_a_secret_is_made_once_and_closed_to_others(tmp_path: Path):
    path = tmp_path / "state" / "pepper"
    assert read_secret(path) is None
    assert read_or_make(path, lambda: b"first") == b"first"
    assert read_or_make(path, lambda: b"second") == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_open_to_others_is_refused(tmp_path: Path):
    path = tmp_path / "pepper"
    read_or_make(path, lambda: b"secret")
    path.chmod(0o640)
    with pytest.raises(PlugskyError) as refused:
        read_secret(path)
    assert "chmod 600" in refused.value.next
    assert "0640" in refused.value.why


def test_a_secret_behind_a_link_is_refused(tmp_path: Path):
    (tmp_path / "pepper").symlink_to("/etc/hostname")
    with pytest.raises(PlugskyError):
        read_secret(tmp_path / "pepper")
