"""Generation -> a new generation like it, with other models of the facility beside those of its bundle.

Made from the store alone, with an environment of its own: the scripts of an environment name the place they are at.
Every file that it takes from the store is read and hashed first, as for an installation.
"""

import shutil
from datetime import UTC, datetime
from typing import Final

from plugsky.core.clock import rfc3339
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations
from plugsky.fleet.assembly import Origin, Parts, assemble
from plugsky.fleet.generations import Generation
from plugsky.fleet.lock import writers_lock
from plugsky_bundles import transfer
from plugsky_bundles.atomic import out_of_space
from plugsky_bundles.errors import InstallError
from plugsky_bundles.format import CUSTODY, FileEntry
from plugsky_bundles.preflight import is_lock
from plugsky_bundles.progress import Progress, silent

EVIDENCE: Final = CUSTODY.partition("/")[0]


def like(paths: SitePaths, old: Generation, local: tuple[FileEntry, ...], *, progress: Progress = silent) -> Generation:
    """A complete generation with the bundle of ``old`` and these ``local`` files; it is not activated.

    The caller holds the site's lock. Raises InstallError when the store no longer has what it takes, NoSpace,
    SiteUnwritable or Busy; nothing new is there then.
    """
    with writers_lock(paths.generations) as held:
        generations.clear_remains(paths)
        _check_store(paths, (*old.entries, *local), progress)
        number = max(generations.numbers(paths), default=0) + 1
        folder = paths.generations / str(number)
        origin = Origin(
            old.channel, old.version, old.bundle_id, old.content_id, old.root_fingerprint, plan=f"like {old.number}"
        )
        lock = next((entry.path for entry in old.entries if is_lock(entry.path)), None)
        evidence = (
            (str(path.relative_to(old.path)), path.read_bytes())
            for path in sorted((old.path / EVIDENCE).rglob("*"))
            if path.is_file() and not path.is_symlink()
        )
        parts = Parts(tuple(old.entries), local, evidence, lock, old.elsewhere, old.lists, old.on_media)
        try:
            with generations.unwritable(folder), out_of_space(folder):
                assemble(paths, number, origin, parts, rfc3339(datetime.now(UTC)), held, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(paths.staging, ignore_errors=True)
        return generations.load(paths, number)


def _check_store(paths: SitePaths, entries: tuple[FileEntry, ...], progress: Progress) -> None:
    wanted = {entry.sha256: entry.length for entry in entries}
    good = transfer.whole(paths.store, wanted, progress)
    lacking = [entry.path for entry in entries if entry.sha256 not in good]
    if lacking:
        raise InstallError(
            "A generation like the current one cannot be made",
            f"the store lacks {', '.join(lacking[:3])}, or its bytes are not those that were signed",
            "Install its bundle again: plugsky bundle install --repair",
        )
