"""The `[debs]` table of a recipe: which Debian packages travel, and what they are resolved against.

```toml
[debs]
packages = ["nftables", "chrony"]        # beside python3 and libgomp1, which always travel
lock = "../locks/debs-{target}.txt"      # one per target, made by `plugsky bundle lock`
status = "hosts/{target}.status"         # optional: the target's /var/lib/dpkg/status; without it, a bare host
mirror = "http://deb.debian.org/debian"  # optional, as is security-mirror
check-valid-until = true                 # optional; false for a mirror that is a snapshot of a past day
```

`{target}` stands for the target's folder, for example `debian-13-amd64`. Paths are relative to the recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_builder.tables import Table

PLACE: Final = "{target}"
DEFAULT_LOCK: Final = "debs-{target}.txt"
ALWAYS: Final = ("libgomp1", "python3")
"""What always travels: llama.cpp's OpenMP runtime, and the interpreter that a bare host lacks."""
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}", re.ASCII)
_MIRROR: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class DebsRecipe:
    """What a recipe asks of Debian. `packages` is sorted and holds `ALWAYS`; a mirror of "" is the default one."""

    base: Path
    packages: tuple[str, ...]
    lock: str
    status: str
    mirror: str
    security_mirror: str
    check_valid_until: bool

    def lock_of(self, target: str) -> Path:
        """Where the lock for a target's folder lies."""
        return self.base / self.lock.replace(PLACE, target)

    def status_of(self, target: str) -> Path | None:
        """The package status of the target's hosts; None for a bare host."""
        return self.base / self.status.replace(PLACE, target) if self.status else None


def read(table: Table, base: Path) -> DebsRecipe:
    """Read the table of a recipe that lies in `base`. Raises RecipeError."""
    packages = table.texts("packages", [])
    for name in packages:
        if _PACKAGE.fullmatch(name) is None:
            raise table.wrong("packages", f"holds {name!r}, which is not the name of a Debian package")
    lock = table.text("lock", DEFAULT_LOCK)
    if PLACE not in lock:
        raise table.wrong("lock", f"must hold {PLACE}, because each target has its own")
    recipe = DebsRecipe(
        base,
        tuple(sorted({*ALWAYS, *packages})),
        lock,
        table.text("status") if table.has("status") else "",
        _mirror(table, "mirror"),
        _mirror(table, "security-mirror"),
        table.flag("check-valid-until", True),
    )
    table.end()
    return recipe


def _mirror(table: Table, key: str) -> str:
    if not table.has(key):
        return ""
    url = table.text(key).rstrip("/")
    if _MIRROR.fullmatch(url) is None:
        raise table.wrong(key, "must be a http or https address without credentials (apt's auth.conf keeps those)")
    return url
