"""Where a site keeps things on disk. Nothing here creates anything.

A site is one directory (``--root``; ``/var/lib/plugsky`` where root installs). Sockets live in a short runtime
directory apart from it, because the address of a Unix socket ends at 107 bytes (unix(7)). Where that is follows from
the user's environment; so a site that was started leaves it in ``root/run``, and every other command reads it there.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.core import env

SYSTEM_ROOT: Final = Path("/var/lib/plugsky")
SYSTEM_RUN: Final = Path("/run/plugsky")
SYSTEM_LOG: Final = Path("/var/log/plugsky")
MAX_SOCKET_PATH: Final = 107
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_IN_CHECKOUT: Final = {
    "bootstrap": "bundles/bootstrap",
    "recipes": "bundles/recipes",
    "locks": "bundles/locks",
    "playbooks": "playbooks",
    "docs": "docs",
    "examples": "docs/examples",
}


@dataclass(frozen=True)
class SitePaths:
    """Every path of one site. ``root`` is absolute; ``run`` holds its sockets."""

    root: Path
    run: Path
    database_url: str = ""
    """Where the database is when it is not the site's own file."""

    @classmethod
    def at(cls, root: Path, run: Path | None = None, database_url: str = "") -> "SitePaths":
        """The paths of the site at ``root``. Its sockets: in ``run``, or where it was started with them, or new."""
        absolute = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a symlinked root
        return cls(absolute, run or _announced(absolute) or runtime_directory(absolute), database_url)

    def to_be_started(self) -> "SitePaths":
        """The same site with the runtime directory that this process's environment gives it."""
        return SitePaths(self.root, runtime_directory(self.root), self.database_url)

    @property
    def store(self) -> Path:
        """Whole files by SHA-256, 0440."""
        return self.root / "store"

    @property
    def staging(self) -> Path:
        """Where files are written before they are verified; on the same file system as the store."""
        return self.root / "staging"

    @property
    def returns(self) -> Path:
        """What this site signed for its operator: receipts, its line of custody."""
        return self.root / "returns"

    @property
    def generations(self) -> Path:
        """``generations/<n>``: everything one installed bundle needs to run."""
        return self.root / "generations"

    @property
    def local(self) -> Path:
        """``local/<id>``: the models made in this facility, which every generation gets."""
        return self.root / "local"

    @property
    def current(self) -> Path:
        """The symbolic link to the running generation; the only thing an activation renames."""
        return self.root / "current"

    @property
    def trust(self) -> Path:
        """The site's keys and what it has accepted so far: root, floors, newest time, revocations."""
        return self.root / "trust"

    @property
    def trust_state(self) -> Path:
        """What the site has accepted so far, as ``plugsky_bundles.state.TrustState`` writes it."""
        return self.trust / "state.json"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def database(self) -> Path:
        return self.state / "plugsky.db"

    @property
    def files(self) -> Path:
        """What tenants gave and batches made, one file each, 0600."""
        return self.state / "files"

    @property
    def audit(self) -> Path:
        """One chain per writing process: ``audit/<host>.<process>/``."""
        return self.root / "audit"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def run_link(self) -> Path:
        """The symbolic link to the runtime directory that the site was last started with."""
        return self.root / "run"

    @property
    def serve_lock(self) -> Path:
        """Held by the supervisor of the running site."""
        return self.root / "serve.lock"

    @property
    def admin_socket(self) -> Path:
        return self.run / "admin.sock"

    @property
    def gateway_socket(self) -> Path:
        """The gateway's control socket: live requests, cancel, reload."""
        return self.run / "gateway.sock"

    def engine_socket(self, model: str) -> Path:
        """Where the engine of ``model`` listens. Long model ids are shortened by digest to fit a socket address."""
        path = self.run / "engines" / f"{model}.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        return self.run / "engines" / f"{hashlib.sha256(model.encode()).hexdigest()[:16]}.sock"


def _announced(root: Path) -> Path | None:
    """Where ``root/run`` points to, unless somebody other than the site's owner or root made it."""
    link = root / "run"
    try:
        maker, target = link.lstat().st_uid, link.readlink()
    except OSError:
        return None
    return target if maker in (0, root.stat().st_uid) and target.is_absolute() else None


def runtime_directory(root: Path) -> Path:
    """The socket directory of the site at ``root``: ``/run/plugsky``, or a short private one per user and site."""
    if root == SYSTEM_ROOT:
        return SYSTEM_RUN
    name = f"plugsky-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
    base = env.XDG_RUNTIME_DIR.read()
    if base and len(os.fsencode(base)) < 40:
        return Path(base) / name
    return Path("/tmp") / f"{name}-{os.getuid()}"  # noqa: S108 - made 0700 and checked for its owner before use


def data_directory(name: str) -> Path:
    """Where ``recipes``, ``locks``, ``bootstrap`` and the like lie: in the checkout, else inside the wheel."""
    tree = checkout()
    return _PACKAGE / "_data" / name if tree is None else tree / _IN_CHECKOUT[name]


def checkout() -> Path | None:
    """The root of the source tree that this Plugsky runs from; None when it runs from an installed wheel."""
    root = _PACKAGE.parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "appliance" / "plugsky").is_dir() else None
