"""The doctor's look at the files of a site, whether it runs or not. Nothing is written.

Each check stands for itself: a damaged file is the finding of its own check and keeps no other from running.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from plugsky.admin import site_secrets
from plugsky.admin.facts import FilesOfSite
from plugsky.admin.health import Finding
from plugsky.audit.site_key import known_site_keyid
from plugsky.core.clock import Clock
from plugsky.core.errors import PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations
from plugsky.fleet.assembly import PROVENANCE, is_linked
from plugsky.models import catalogue
from plugsky.state import RESTORE
from plugsky_bundles import transfer
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import BundleError
from plugsky_bundles.format import CUSTODY, FileEntry, content_id
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.sizes import size

REPAIR: Final = "plugsky bundle install --repair, from the bundle it came with"
MAX_CHAIN: Final = 64 << 20
"""Bytes of a chain that are read here; a longer one is left to ``plugsky audit verify``, which shows its progress."""

Check = Callable[[], Iterator[Finding]]


def site_findings(
    paths: SitePaths, clock: Clock, progress: Progress = silent, *, quick: bool = False
) -> Iterator[Finding]:
    """What the files of the site say. Installed files are read and hashed, or with ``quick`` compared by size only."""
    if not os.path.lexists(paths.current):
        advice = f"plugsky bundle install BUNDLE --root {shlex.quote(str(paths.root))}"
        yield Finding("generation", "failed", "nothing is installed", advice)
        return
    checks: list[tuple[str, Check, str]] = [
        ("generation", partial(_generation, paths), REPAIR),
        ("files", partial(_files, paths, progress, quick=quick), REPAIR),
        ("models", partial(_models, paths), REPAIR),
        ("custody", partial(_custody, paths), REPAIR),
        (
            "trust",
            partial(site_secrets.trust, paths),
            "restore trust/state.json from the backup; a new one would forget revocations",
        ),
        ("secrets", partial(site_secrets.secrets, paths), site_secrets.RESTORE_TRUST),
        ("database", partial(site_secrets.database, paths), RESTORE),
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
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(name, "failed", f"it cannot be read: {type(error).__name__}: {error}", advice)


def _generation(paths: SitePaths) -> Iterator[Finding]:
    current = generations.current(paths)
    if current is not None:
        yield Finding("generation", "ok", f"{current.number}, {current.channel} version {current.version}")


def _files(paths: SitePaths, progress: Progress, *, quick: bool) -> Iterator[Finding]:
    """The installed files against the provenance, byte by byte unless ``quick``."""
    current = generations.current(paths)
    if current is None:
        return
    if content_id((*current.entries, *current.elsewhere)) != current.content_id:
        text = f"{PROVENANCE} lists other files than those of content {current.content_id[:16]}"
        yield Finding("files", "failed", text, REPAIR)
        return
    entries = [entry for entry in (*current.entries, *current.local) if is_linked(entry.path)]
    total, done, wrong = sum(entry.length for entry in entries), 0, 0
    for entry in entries:

        def moved(count: int, before: int = done, name: str = entry.path) -> None:
            progress(ProgressEvent("check", before + count, total, name))

        fault = _fault(current.path / entry.path, entry, None if quick else moved)
        if fault:
            yield Finding("files", "failed", f"{current.path / entry.path} {fault}", REPAIR)
            wrong += 1
        done += entry.length
    if not wrong:
        compared = "sizes as signed; bytes were not compared" if quick else "every byte as signed"
        yield Finding("files", "ok", f"{len(entries)} of generation {current.number}, {compared}")


def _fault(path: Path, entry: FileEntry, moved: Callable[[int], None] | None) -> str:
    """What is wrong with an installed file; empty where nothing is. Its bytes are read where ``moved`` listens."""
    try:
        length = path.lstat().st_size
        if length != entry.length:
            return f"has {length} bytes instead of {entry.length}"
        if moved is not None and transfer.hash_file(path, moved) != entry.sha256:
            return "has the right size, but its bytes are not those that were signed"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return ""


def _models(paths: SitePaths) -> Iterator[Finding]:
    current = generations.current(paths)
    signed = current.digests.keys() if current else set()
    for entry in catalogue.models(paths, current.number if current else None):
        wrong = [file for file in entry.files if file.sha256 not in signed or not _has_size(file.path, file.size)]
        for file in wrong:
            yield Finding(f"model {entry.id}", "failed", f"{file.path} is not what was installed", REPAIR)
        if not wrong:
            yield Finding(f"model {entry.id}", "ok", f"{size(entry.size)}, the size that was signed")


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _custody(paths: SitePaths) -> Iterator[Finding]:
    current = generations.current(paths)
    if current is None:
        return
    path = current.path / CUSTODY
    if not path.is_file():
        yield Finding("custody", "failed", f"{path} is missing: who made the bundle cannot be shown", REPAIR)
        return
    report = verify_chain(path)
    yield Finding("custody", "ok", f"{report.records} records of who made the bundle, each in its place")


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
        return Finding(name, "warning", f"longer than {size(MAX_CHAIN)}, not read here", "plugsky audit verify")
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
