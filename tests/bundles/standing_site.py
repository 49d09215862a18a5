"""A site that runs on one bundle while others are brought to it: what is refused must leave it exactly as it was."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from appliance.test_generations import model_files
from bundles.forge import FILES, NOW, Forge
from plugsky.audit import AuditLog
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, installation
from plugsky_bundles.errors import BundleError
from plugsky_bundles.progress import Progress, silent

LATER = NOW + timedelta(hours=1)


class StandingSite:
    """Installs as the command does: verified, planned, then exactly that plan."""

    def __init__(self, base: Path, forge: Forge | None = None) -> None:
        self.forge = forge or Forge(base)
        self.paths = SitePaths.at(base / "site", base / "run")
        self.files = model_files(base) | {path: data for path, data in FILES.items() if path.startswith("p")}

    def bundle(self, files: Mapping[str, bytes] | None = None, **options) -> Path:
        """A right bundle; without `files` one that can be installed."""
        return self.forge.sealed(files=self.files if files is None else files, **options)

    def verify(self, bundle: Path, pin: str | None = None, now: datetime = LATER):
        return installation.verify_for(self.paths, bundle, pin, now)

    def install(self, bundle: Path, pin: str | None = None, now: datetime = LATER, progress: Progress = silent):
        return self.carry_out(self.verify(bundle, pin, now), progress)

    def carry_out(self, verified, progress: Progress = silent) -> generations.Generation:
        plan = installation.plan_for(verified, self.paths)
        return installation.install(verified, plan, self.paths, self._trail, "user:test", progress=progress)

    def _trail(self) -> AuditLog:
        return AuditLog.open(self.paths, "cli", SystemClock(), spare=True)

    def listing(self) -> dict[str, tuple[object, ...]]:
        """All of the site by path: kind, mode, owner, and what it holds by digest or leads to; staging left out."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.paths.root.rglob("*")) if self.paths.root.exists() else ():
            if path == self.paths.staging:
                continue
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                held: object = str(path.readlink())
            else:
                held = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
            found[str(path.relative_to(self.paths.root))] = (status.st_mode, status.st_uid, held)
        return found

    def staged(self) -> list[str]:
        """What lies in staging, or half made beside it."""
        folders = [self.paths.staging] if self.paths.staging.exists() else []
        odd = [path.name for path in self.paths.root.glob(".*")] if self.paths.root.exists() else []
        return odd + [path.name for folder in folders for path in folder.iterdir()]

    def refuses(self, bundle: Path, error: type[BundleError] | None = None, why: str = "", **options) -> BundleError:
        """Bring a bundle that must be refused as `error`, and see that nothing of the site changed."""
        before = self.listing()
        with pytest.raises(error or BundleError, match=why or None) as caught:
            self.install(bundle, **options)
        self.unchanged(before)
        assert error is None or type(caught.value) is error
        assert caught.value.exit_code == 5
        assert str(caught.value).isprintable()
        return caught.value

    def unchanged(self, before: Mapping[str, tuple[object, ...]]) -> None:
        assert self.listing() == before
        assert self.staged() == []
