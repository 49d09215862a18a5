"""Where a demo writes: in a directory of its own only.

It marks a new or empty one first, and refuses any other. What is left of a directory that somebody deleted parts of
cannot be finished; that is said, and ``--fresh`` begins anew.
"""

import shutil
from pathlib import Path
from typing import Final

from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError

MARK: Final = ".plugsky-demo"
LOCK: Final = "lock"
STEPS_LOCK: Final = "steps.lock"


def claim(place: Path) -> None:
    """Make ``place`` a demo's own. Raises CONFLICT, with nothing written, where it holds something else."""
    place.mkdir(parents=True, exist_ok=True)
    if not (place / MARK).exists() and any(place.iterdir()):
        raise PlugskyError(
            ErrorKind.CONFLICT,
            f"{place} is not a demo's directory.",
            why=f"it holds files and no {MARK}",
            next="choose a new or an empty --dir",
        )
    (place / MARK).touch()


def clear(place: Path) -> None:
    """Remove all that demos made in ``place``; their mark and their locks stay."""
    for entry in place.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (MARK, LOCK, STEPS_LOCK):
            entry.unlink()


def check_whole(place: Path) -> None:
    """Raises CONFLICT where parts are gone that the others depend on. All else a demo makes again."""
    trust, passphrase = place / "trust", place / "passphrase"
    made = [name for name in ("trust", "media", "site") if (place / name).exists()]
    gone = [str(part) for part in (trust / "metadata/1.root.json", trust / "keys", passphrase) if not part.exists()]
    if made and gone:
        raise PlugskyError(
            ErrorKind.CONFLICT,
            f"The demo in {place} cannot be finished.",
            why=f"{' and '.join(made)} depend on what is gone: {', '.join(gone)}",
            next=command_line("demo", "--dir", place, "--fresh"),
        )
