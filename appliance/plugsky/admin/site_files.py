"""The doctor's look at the files of a site, whether it runs or not. Nothing is written.

Each check stands for itself: a damaged file is the finding of its own check and keeps no other from running.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from plugsky.admin.facts import FilesOfSite
from plugsky.admin.health import Finding
from plugsky.audit.site_key import known_site_keyid
from plugsky.core.clock import Clock
from plugsky.core.errors import PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, site_trust
from plugsky.models import catalogue
from plugsky.state.secrets import read_secret
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import BundleError

REPAIR: Final = "plugsky bundle install --repair, from the bundle it came with"
MAX_CHAIN: Final = 64 << 20
"""Bytes of a chain that are read here; a longer one is left to ``plugsky audit verify``, which shows its progress."""

Check = Callable[[], Iterator[Finding]]


def site_findings(paths: SitePaths, clock: Clock) -> Iterator[Finding]:
    """What the files of the site say."""
    if not paths.current.is_symlink():
        advice = f"plugsky bundle install BUNDLE --root {paths.root}"
        yield Finding("generation", "failed", "nothing is installed", advice)
        return
    checks: list[tuple[str, Check, str]] = [
        ("generation", partial(_generation, paths), REPAIR),
        ("models", partial(_models, paths), REPAIR),
        (
            "trust",
            partial(_trust, paths),
            "restore trust/state.json from the backup; a new one would forget revocations",
        ),
        ("secrets", partial(_secrets, paths), "restore the file from the backup"),
        ("database", partial(_database, paths), "restore the database from the backup"),
        ("trail", partial(_trail, paths), "plugsky audit verify"),
        ("duties", partial(_duties, paths, clock), "see the finding above"),
    ]
    for name, check, advice in checks:
        try:
            yield from check()
        except (BundleError, PlugskyError) as error:
            own = error.next if isinstance(error, PlugskyError) else ""
            yield Finding(name, "failed", f"{error.what}: {error.why}", own or advice)
        except OSError as error:
            yield Finding(name, "failed", f"{error.filename or paths.root}: {error.strerror or error}", advice)


def _generation(paths: SitePaths) -> Iterator[Finding]:
    current = generations.current(paths)
    if current is not None:
        yield Finding("generation", "ok", f"{current.number}, {current.channel} version {current.version}")


def _models(paths: SitePaths) -> Iterator[Finding]:
    current = generations.current(paths)
    signed = set(current.files.values()) if current else set()
    for entry in catalogue.models(paths):
        try:
            size = entry.path.stat().st_size
        except FileNotFoundError:
            size = -1
        if size != entry.size or entry.sha256 not in signed:
            yield Finding(f"model {entry.id}", "failed", f"{entry.path} is not what was installed", REPAIR)
        else:
            yield Finding(f"model {entry.id}", "ok", f"{size} bytes, as installed")


def _trust(paths: SitePaths) -> Iterator[Finding]:
    believed = site_trust.load(paths)
    if believed is None:
        advice = "restore it from the backup; without one, plugsky bundle install --pin FINGERPRINT begins anew"
        yield Finding("trust", "failed", f"{paths.trust_state} is missing", advice)
    else:
        yield Finding("trust", "ok", f"{len(believed.floors)} channels, newest bundle sealed {believed.time:%F}")


def _secrets(paths: SitePaths) -> Iterator[Finding]:
    """Secrets of the site are their owner's alone, and can be read by it."""
    known_site_keyid(paths)
    read_secret(paths.state / "pepper")
    for path in (paths.database.with_name(f"{paths.database.name}{end}") for end in ("", "-wal", "-shm")):
        if path.exists() and (mode := path.stat().st_mode & 0o077):
            yield Finding("secrets", "failed", f"{path} is open to others ({mode:03o})", f"chmod 600 {path}")
            return
    yield Finding("secrets", "ok", "the site's keys and database are its owner's alone")


def _database(paths: SitePaths) -> Iterator[Finding]:
    if not paths.database.exists():
        yield Finding("database", "ok", "none yet; the first key or request makes it")
        return
    try:
        with closing(sqlite3.connect(f"{paths.database.as_uri()}?mode=ro", uri=True)) as connection:
            (seen,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                seen = "it holds no tables"
    except sqlite3.Error as error:
        seen = str(error)
    if seen == "ok":
        yield Finding("database", "ok", "it reads well")
    else:
        advice = "stop the site and restore the database from the backup"
        yield Finding("database", "failed", f"{paths.database}: {seen}", advice)


def _trail(paths: SitePaths) -> Iterator[Finding]:
    keyid = known_site_keyid(paths)
    chains = sorted(paths.audit.glob("*/chain.jsonl"))
    for path in chains:
        yield _chain(path, keyid)
    if not chains:
        yield Finding("trail", "failed", f"{paths.audit} holds no chain", "restore it from the backup")


def _chain(path: Path, keyid: str | None) -> Finding:
    name = f"trail {path.parent.name}"
    if path.stat().st_size > MAX_CHAIN:
        return Finding(name, "warning", f"longer than {MAX_CHAIN >> 20} MiB, not read here", "plugsky audit verify")
    try:
        report = verify_chain(path, None if keyid is None else {keyid}, open_tail=True)
    except BundleError as error:
        return Finding(name, "failed", f"{error.what}: {error.why}", "plugsky audit verify")
    return Finding(name, "ok", f"{report.records} records, each in its place")


def _duties(paths: SitePaths, clock: Clock) -> Iterator[Finding]:
    duties = FilesOfSite(paths, clock).duties()
    yield from (
        Finding(duty.id, "failed" if duty.severity == "alarm" else "warning", duty.text, duty.next) for duty in duties
    )
    if not duties:
        yield Finding("duties", "ok", "clock, root and disk ask nothing of anyone")
