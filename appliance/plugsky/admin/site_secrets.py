"""The doctor's look at what a site must keep and keep to itself: ``state/`` and ``trust/``, and the database in them.

What a site has only since its first use (the database, the pepper) is missed only where the trail says that it was
used; what its installation makes (the trust state, the key that signs the trail) is missed at once.
"""

import shlex
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from plugsky.access.keys import PEPPER_BYTES
from plugsky.admin.first_use import was_used
from plugsky.admin.health import Finding
from plugsky.audit.site_key import known_site_keyid
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import site_trust
from plugsky.state import RESTORE, ApiKey, open_database
from plugsky.state.secrets import read_secret
from plugsky_bundles.sharing import is_open_to_others

RESTORE_TRUST: Final = "restore the trust/ directory from the backup, then: plugsky audit verify"
REVISIONS: Final = "alembic_version"


def trust(paths: SitePaths) -> Iterator[Finding]:
    """What the site believes, readable and there."""
    believed = site_trust.load(paths)
    if believed is None:
        advice = "restore it from the backup; without one, plugsky bundle install --pin FINGERPRINT begins anew"
        yield Finding("trust", "failed", f"{paths.trust_state} is missing", advice)
    else:
        yield Finding("trust", "ok", f"{len(believed.floors)} channels, newest bundle sealed {believed.time:%F}")


def secrets(paths: SitePaths) -> Iterator[Finding]:
    """Secrets of the site are there, whole, and their owner's alone. Every fault is a finding of its own."""
    faults = [*_exposed(paths)]
    if known_site_keyid(paths) is None:
        faults.append(Finding("secrets", "failed", f"{paths.trust}/site-key.pem is missing", RESTORE_TRUST))
    pepper = read_secret(paths.state / "pepper")
    if pepper is None and was_used(paths):
        faults.append(Finding("secrets", "failed", f"{paths.state}/pepper is missing; no key can be checked", RESTORE))
    if pepper is not None and len(pepper) != PEPPER_BYTES:
        text = f"{paths.state}/pepper has {len(pepper)} bytes instead of {PEPPER_BYTES}"
        faults.append(Finding("secrets", "failed", text, RESTORE))
    yield from faults or [Finding("secrets", "ok", "keys and database are the site's own and its owner's alone")]


def _exposed(paths: SitePaths) -> Iterator[Finding]:
    """What of ``state/`` and ``trust/`` belongs to another than the site does, or is open to others."""
    owner = paths.root.stat().st_uid
    for folder in (paths.state, paths.trust):
        if not folder.exists():
            continue
        whole = folder.lstat()
        for path in (folder, *sorted(folder.iterdir())):
            try:
                status = path.lstat()
            except FileNotFoundError:  # a journal of the database, gone meanwhile
                continue
            name, mode = shlex.quote(str(path)), stat.S_IMODE(status.st_mode)
            shared = bool(whole.st_mode & stat.S_ISGID) and status.st_gid == whole.st_gid
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                text = f"{path} is neither a file nor a directory"
                yield Finding("secrets", "failed", text, f"find out who put it there, then: rm {name}")
            elif status.st_uid != owner and not (shared and path != folder):
                text = f"{path} belongs to user {status.st_uid}, the site to user {owner}"
                yield Finding("secrets", "failed", text, f"find out why, then: chown {owner} {name}")
            elif is_open_to_others(status, whole):
                right = ("770" if shared else "700") if path.is_dir() else ("660" if shared else "600")
                text = f"{path} is open to others ({mode:03o})"
                yield Finding("secrets", "failed", text, f"find out who had access, then: chmod {right} {name}")


def database(paths: SitePaths) -> Iterator[Finding]:
    """The database opens, holds together and has its tables."""
    if paths.database_url:
        yield _asked(paths)
        return
    if not paths.database.exists():
        if was_used(paths):
            yield Finding("database", "failed", f"{paths.database} is missing, and the site was used", RESTORE)
        else:
            yield Finding("database", "ok", "none yet; the first key or request makes it")
        return
    seen = _seen(paths.database)
    if seen == "ok":
        yield Finding("database", "ok", "it reads well and has its tables")
    else:
        yield Finding("database", "failed", f"{paths.database}: {seen}", RESTORE)


def _asked(paths: SitePaths) -> Finding:
    """A PostgreSQL database, opened as a site that was used opens it: one that is not there is not made."""

    def beginning() -> None:
        raise PlugskyError(ErrorKind.NOT_FOUND, "it holds no tables")

    try:
        open_database(paths.database_url, beginning).close()
    except PlugskyError as error:
        if error.kind is ErrorKind.NOT_FOUND and not was_used(paths):
            return Finding("database", "ok", "none yet; the first key or request makes it")
        return Finding("database", "failed", f"{error.what}: {error.why}".rstrip(": "), error.next or RESTORE)
    return Finding("database", "ok", f"{paths.database_url} answers and has its tables")


def _seen(path: Path) -> str:
    """What is wrong with the database, in words; ``ok`` where nothing is."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            (seen,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except sqlite3.Error as error:
        return str(error)
    lacking = {*ApiKey.metadata.tables, REVISIONS} - tables
    if seen == "ok" and lacking:
        return f"it lacks the tables {', '.join(sorted(lacking))}" if tables else "it holds no tables"
    return str(seen)
