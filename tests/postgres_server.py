"""Debian's PostgreSQL, started for tests on a Unix socket of its own, and a fresh database in it for each."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from plugsky.state import open_database

USER = "postgres"
TEMPLATE = "empty_site"


def binaries():
    """The folder of the newest server here, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresServer:
    """A server that is started when it is made. It runs as the user ``postgres`` where the tests run as root."""

    def __init__(self):
        self._bin = binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self._as = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            owner = pwd.getpwnam(USER)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._numbers = itertools.count()
        self._run("initdb", "-D", self._folder / "data", "-A", "trust", "-U", USER, "-E", "UTF8", "--no-sync")
        self.start()
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        open_database(self.url(TEMPLATE)).close()

    def _run(self, tool, *arguments):
        subprocess.run([self._bin / tool, *arguments], check=True, capture_output=True, cwd=self._folder, **self._as)

    def start(self):
        """Start the server, and wait until it answers."""
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data", *options],
                stdout=log, stderr=log, cwd=self._folder, **self._as,
            )  # fmt: skip
        for _ in range(600):
            try:
                self._execute("SELECT 1")
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError((self._folder / "log").read_text())

    def kill(self):
        """End the server as a power cut would."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def close(self):
        """End the server and remove what it kept."""
        self.kill()
        shutil.rmtree(self._folder)

    def url(self, name):
        """The URL of one of its databases."""
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def fresh(self, *, migrated=True):
        """The URL of a new database: with this release's tables, or with none."""
        name = f"site_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE if migrated else 'template0'}")
        return self.url(name)

    def execute(self, url, statement):
        """Run a statement in one of the databases, as its administrator would."""
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _execute(self, statement):
        return self.execute(self.url("postgres"), statement)
