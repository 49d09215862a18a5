"""A site's state in PostgreSQL: the same promises as in a file, kept among several processes."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlmodel import SQLModel

from appliance.fresh_site import fresh_paths
from plugsky.access.ledger import Ledger
from plugsky.admin import site_secrets
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.state import ApiKey, Tenant, migrate, open_database

pytestmark = pytest.mark.integration


def differences(database):
    with database.engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)


def test_the_migrations_make_exactly_the_tables_of_the_code(postgres):
    database = open_database(postgres.fresh(migrated=False))
    assert differences(database) == []
    database.close()


def test_first_starts_at_once_make_one_database(postgres):
    url = postgres.fresh(migrated=False)
    with ThreadPoolExecutor(4) as pool:
        for database in pool.map(open_database, [url] * 4):
            assert differences(database) == []
            database.close()


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
def test_a_database_of_an_earlier_release_is_brought_here_with_what_it_holds(postgres, revision):
    url = postgres.fresh(migrated=False)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrate.MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    tenant = "INSERT INTO tenant (id, created_us, monthly_tokens, weight) VALUES ('demo', 1, 500, 2)"
    key = "INSERT INTO apikey (id, tenant, name, digest, created_us) VALUES ('aaaaaaaa', 'demo', '', '\\x00', 1)"
    postgres.execute(url, tenant)
    postgres.execute(url, key)
    database = open_database(url)
    assert differences(database) == []
    with database.read() as session:
        kept = session.get(Tenant, "demo")
        assert (kept.monthly_tokens, kept.weight, kept.concurrency) == (500, 2, None)
        assert session.get(ApiKey, "aaaaaaaa").tenant == "demo"
    postgres.execute(url, tenant.replace("demo", "later"))  # the previous release goes on writing into the new schema
    postgres.execute(url, key.replace("aaaaaaaa", "bbbbbbbb").replace("demo", "later"))
    database.close()


def test_a_schema_of_a_later_release_is_taken_as_it_is(postgres):
    url = postgres.fresh()
    postgres.execute(url, "UPDATE alembic_version SET version_num = '0099'")
    open_database(url).close()
    assert postgres.execute(url, "SELECT version_num FROM alembic_version") == [("0099",)]


def test_a_database_that_may_not_begin_is_left_empty(postgres):
    def refuse():
        raise PlugskyError(ErrorKind.TAMPERED, "there was one")

    url = postgres.fresh(migrated=False)
    with pytest.raises(PlugskyError, match="there was one"):
        open_database(url, refuse)
    assert postgres.execute(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_reader_sees_one_moment_while_others_write(postgres):
    database = open_database(postgres.fresh())
    with database.read() as reader:
        assert reader.scalar(text("SELECT count(*) FROM tenant")) == 0
        with database.write() as writer:
            writer.add(Tenant(id="demo", created_us=1))
        assert reader.scalar(text("SELECT count(*) FROM tenant")) == 0
    with database.read() as reader:
        assert reader.scalar(text("SELECT count(*) FROM tenant")) == 1
    database.close()


GATEWAY = """
import sys
from plugsky.access.ledger import Ledger
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Usage
from plugsky.core.principal import Principal
from plugsky.state import open_database
url, number = sys.argv[1:]
ledger = Ledger(open_database(url), SystemClock(), f"host{number}.gateway")
settled = refused = 0
for job in (f"{number}-{count}" for count in range(60)):
    try:
        ledger.reserve(
            job=job, principal=Principal("demo", "key"), requested_model="m", model="m", digest="d", tokens=10
        )
        ledger.top_up(job, 5)
    except PlugskyError as error:
        if error.kind is not ErrorKind.QUOTA_EXHAUSTED:
            raise
        refused += 1
    else:
        ledger.settle(job, Usage(7, 3), "stop")
        settled += 1
print(settled, refused)
"""


def test_gateways_that_share_a_budget_never_spend_more_than_it_and_their_sums_are_right(postgres):
    url = postgres.fresh()
    database = open_database(url)
    with database.write() as session:
        session.add(Tenant(id="demo", created_us=0, monthly_tokens=1500))
    gateways = [
        subprocess.Popen([sys.executable, "-c", GATEWAY, url, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    ended = [tuple(map(int, gateway.communicate(timeout=120)[0].split())) for gateway in gateways]
    ledger = Ledger(database, SystemClock(), "host.admin")
    (sums,) = ledger.sums()
    assert sums.used == sums.used_by_entries == 10 * sum(settled for settled, _ in ended)
    assert sums.used <= 1500
    assert sum(refused for _, refused in ended) > 0
    assert sums.reserved == sums.reserved_by_entries
    database.close()


def test_a_writer_that_waits_too_long_is_told_to_try_again(postgres, monkeypatch):
    monkeypatch.setattr("plugsky.state.database.BUSY_TIMEOUT_MS", 200)
    database = open_database(postgres.fresh())
    begun, end = threading.Event(), threading.Event()

    def hold():
        with database.write():
            begun.set()
            end.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait(20)
    try:
        with pytest.raises(PlugskyError) as refused, database.write() as session:
            session.add(Tenant(id="demo", created_us=1))
    finally:
        end.set()
        holder.join()
    assert refused.value.kind is ErrorKind.OVERLOADED
    with database.write() as session:
        session.add(Tenant(id="demo", created_us=1))
    database.close()


def test_a_server_that_was_killed_is_overload_until_it_is_back(postgres):
    database = open_database(postgres.fresh())
    with database.write() as session:
        session.add(Tenant(id="demo", created_us=1))
    postgres.kill()
    began = time.monotonic()
    try:
        for _ in range(2):
            with pytest.raises(PlugskyError) as refused, database.read() as session:
                session.get(Tenant, "demo")
            assert refused.value.kind is ErrorKind.OVERLOADED
        assert time.monotonic() - began < 15
    finally:
        postgres.start()
    with database.read() as session:
        assert session.get(Tenant, "demo") is not None
    database.close()


def test_text_that_postgresql_cannot_hold_is_refused_and_not_tried_again(postgres):
    database = open_database(postgres.fresh())
    with pytest.raises(PlugskyError) as refused, database.write() as session:
        session.add(Tenant(id="de\x00mo", created_us=1))
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    database.close()


def test_what_a_server_says_of_a_failure_holds_no_values(postgres):
    database = open_database(postgres.fresh())
    insert = text("INSERT INTO tenant (id, created_us, weight) VALUES (:id, 1, 1)")
    with database.write() as session:
        session.execute(insert, {"id": "hunter2"})
    with pytest.raises(PlugskyError) as refused, database.write() as session:
        session.execute(insert, {"id": "hunter2"})
    assert "duplicate key" in refused.value.why
    assert "hunter2" not in f"{refused.value.what} {refused.value.why}"
    database.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://plugsky:hunter2@db/site", "password"),
        ("mysql://db/site", "mysql"),
        ("://", "no URL"),
        ("postgresql+psycopg2://db/site", "psycopg2"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_its_reason_and_without_its_password(url, why):
    with pytest.raises(PlugskyError) as refused:
        open_database(url)
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert why in refused.value.why
    assert "hunter2" not in f"{refused.value.what} {refused.value.why} {refused.value.next}"
    assert ".pgpass" in refused.value.next


def test_the_doctor_tells_how_the_database_is(postgres, tmp_path):
    run = fresh_paths(tmp_path).run
    url = postgres.fresh(migrated=False)
    (finding,) = site_secrets.database(SitePaths.at(tmp_path, run, url))
    assert (finding.state, "none yet" in finding.text) == ("ok", True)
    open_database(url).close()
    (finding,) = site_secrets.database(SitePaths.at(tmp_path, run, url))
    assert (finding.state, "has its tables" in finding.text) == ("ok", True)
    (finding,) = site_secrets.database(SitePaths.at(tmp_path, run, url.replace("site_", "nowhere_")))
    assert finding.state == "failed"
    assert "does not exist" in finding.text
