"""One installation from verified bundle to current generation: cut anywhere, raced by another, and repaired."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.test_generations import MODEL, model_files
from bundles.forge import FILES, NOW, Forge
from plugsky.audit import AuditLog
from plugsky.audit.trail import search
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet import enrolled, generations, health, installation, receipts, site_custody, site_trust
from plugsky.fleet.lock import site_lock
from plugsky_bundles.errors import Busy, DigestMismatch, Revoked, SiteChanged, UntrustedRoot
from plugsky_bundles.progress import silent
from plugsky_bundles.state import Revocations
from plugsky_bundles.uncached import FileReader

LATER = NOW + timedelta(hours=1)
MODEL_PATH = "models/small/small.gguf"


class Site:
    """A site that installs as the command does, bundle by bundle."""

    def __init__(self, base: Path) -> None:
        self.forge = Forge(base)
        self.paths = SitePaths.at(base / "site", base / "run")
        self.files = model_files(base) | {path: data for path, data in FILES.items() if path.startswith("p")}

    def bundle(self, revocations: Revocations | None = None, channel: str = "demo", **changes: bytes) -> Path:
        files = self.files | {path.replace("__", "/"): data for path, data in changes.items()}
        return self.forge.sealed(files=files, channel=channel, revocations=revocations, now=NOW)

    def verify(self, bundle: Path, pin: str | None = None):
        return installation.verify_for(self.paths, bundle, pin or self.forge.fingerprint, LATER)

    def trail(self) -> AuditLog:
        return AuditLog.open(self.paths, "cli", SystemClock(), spare=True)

    def install(self, bundle: Path, *, repair: bool = False, progress=silent) -> generations.Generation:
        verified = self.verify(bundle)
        plan = installation.plan_for(verified, self.paths, repair=repair)
        return installation.install(verified, plan, self.paths, self.trail, "user:test", progress=progress)

    def recorded(self) -> list[str]:
        return [record.action for record in search(self.paths.audit, "", "bundle.install", "", 100)]

    @property
    def current(self) -> int | None:
        return generations.current_number(self.paths)

    def store(self) -> dict[str, str]:
        """What the store says that its files are, and what they are."""
        found = {}
        for path in self.paths.store.iterdir():
            found[path.name] = f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}"
        return found

    def is_clean(self, bundle: Path) -> bool:
        """Whether the store holds the files of `bundle` and nothing else, each as it is named; and nothing is left."""
        expected = {f"sha256-{entry.sha256}" for entry in self.verify(bundle).entries.values()}
        store = self.store()
        odd = [path for path in self.paths.root.iterdir() if path.name.startswith(".") or path.name == "staging"]
        return set(store) == expected and all(name == digest for name, digest in store.items()) and not odd


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


CUTS = {
    "before the approvals are counted": (enrolled, "check_approvals"),
    "before the copy": (generations, "make"),
    "before copies of the metadata are kept": (receipts, "kept_copies"),
    "before the bundle is accepted": (site_trust, "save"),
    "before the receipt": (receipts, "give"),
    "before the health check": (health, "check"),
    "before its verdict is kept": (health, "keep"),
    "before the record": (installation, "newest_commit"),
    "before the switch": (generations, "activate"),
    "before it is asked what was revoked": (generations, "check_revoked"),
}


@pytest.mark.parametrize(("module", "step"), CUTS.values(), ids=CUTS)
def test_an_installation_cut_between_its_steps_is_finished_by_running_it_again(site, monkeypatch, module, step):
    bundle = site.bundle()
    with monkeypatch.context() as patch:
        patch.setattr(module, step, lambda *_args, **_options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.install(bundle)
    assert site.current is None
    assert site.install(bundle).number == site.current == 1
    assert site_trust.load(site.paths) == site.verify(bundle).state
    assert site.recorded()
    assert site.is_clean(bundle)


def test_an_installation_cut_behind_the_switch_only_lacks_its_entry_in_the_custody_log(site, monkeypatch):
    bundle = site.bundle()
    with monkeypatch.context() as patch:
        patch.setattr(site_custody, "installed", lambda *_args, **_options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.install(bundle)
    assert site.current == 1
    assert site.install(bundle).number == site.current == 1
    assert len(site.recorded()) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from datetime import datetime
from plugsky.audit import AuditLog
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, health, installation, receipts, site_trust
from plugsky_bundles import transfer
from plugsky_bundles.progress import silent
root, run, bundle, pin, now, where = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def at(stage, nth):
    seen = []
    def progress(event):
        seen.append(event.stage)
        if seen.count(stage) == nth:
            die()
    return progress
progress = silent
if where.startswith("stage "):
    progress = at(where.split()[1], int(where.split()[2]))
else:
    owner, name = where.rsplit(".", 1)
    setattr({"generations": generations, "site_trust": site_trust, "installation": installation, "health": health,
             "receipts": receipts, "transfer": transfer, "Path": Path}[owner], name, die)
paths = SitePaths.at(Path(root), Path(run))
verified = installation.verify_for(paths, Path(bundle), pin, datetime.fromisoformat(now))
plan = installation.plan_for(verified, paths)
trail = lambda: AuditLog.open(paths, "cli", SystemClock(), spare=True)
installation.install(verified, plan, paths, trail, "user:test", progress=progress)
"""
KILLS = {
    "while the first file is copied": "stage copy 1",
    "while a later file is copied": "stage copy 5",
    "when all is copied": "transfer.sync_directory",
    "when the generation is put together": "stage sync 1",
    "before the bundle is accepted": "site_trust.save",
    "before the receipt": "receipts.give",
    "in the health check": "stage health 1",
    "before its verdict is kept": "health.keep",
    "before the record": "installation.newest_commit",
    "before the switch": "generations.activate",
    "in the switch": "Path.symlink_to",
}


@pytest.mark.integration
@pytest.mark.parametrize("where", KILLS.values(), ids=KILLS)
def test_an_installation_that_is_killed_is_finished_by_running_it_again(site, where):
    bundle = site.bundle()
    arguments = [site.paths.root, site.paths.run, bundle, site.forge.fingerprint, LATER.isoformat(), where]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert site.current is None
    assert site.install(bundle).number == site.current == 1
    assert site_trust.load(site.paths) == site.verify(bundle).state
    assert site.recorded()
    assert site.is_clean(bundle)


def test_a_bundle_revoked_while_another_waited_is_not_activated(site):
    old = site.bundle()
    stale = site.verify(old)
    plan = installation.plan_for(stale, site.paths)
    site.install(site.bundle(Revocations(bundles=frozenset({stale.bundle_id})), channel="other"))
    believed = site_trust.load(site.paths)
    with pytest.raises(SiteChanged, match="verified again"):
        installation.install(stale, plan, site.paths, site.trail, "user:test")
    assert site_trust.load(site.paths) == believed, "no revocation is lost"
    with pytest.raises(Revoked):
        site.verify(old)


def test_a_revocation_survives_every_later_installation(site):
    first = site.bundle()
    lost = site.verify(first).bundle_id
    site.install(site.bundle(Revocations(bundles=frozenset({lost})), channel="other"))
    site.install(site.bundle(channel="third"))
    believed = site_trust.load(site.paths)
    assert believed is not None
    assert lost in believed.revocations.bundles


def test_a_plan_made_before_another_switch_is_not_carried_out(site):
    first = site.bundle()
    site.install(first)
    second = site.verify(site.bundle(playbooks__new=b"- hosts: new\n"))
    plan = installation.plan_for(second, site.paths)
    site.paths.current.unlink()
    with pytest.raises(SiteChanged, match="plan must be made again"):
        installation.install(second, plan, site.paths, site.trail, "user:test")
    assert [g.number for g in generations.complete(site.paths)] == [1]


def test_two_changes_at_once_are_refused(site):
    bundle = site.bundle()
    site.paths.root.mkdir()
    with site_lock(site.paths.root), pytest.raises(Busy):
        site.install(bundle)
    site.install(bundle)


def test_installing_the_same_bundle_again_writes_nothing(site):
    bundle = site.bundle()
    site.install(bundle)
    before = {path: path.lstat().st_mtime_ns for path in site.paths.root.rglob("*")}
    assert site.install(bundle).number == 1
    assert {path: path.lstat().st_mtime_ns for path in site.paths.root.rglob("*")} == before


def test_a_kept_generation_of_the_same_bundle_is_switched_to_and_recorded(site):
    first = site.bundle()
    site.install(first, repair=False)
    other = site.bundle(channel="other")
    assert site.install(other).number == site.current == 2
    plan = installation.plan_for(site.verify(first), site.paths)
    assert (plan.installed, plan.activates, plan.replaces) == (True, True, 2)
    assert site.install(first).number == site.current == 1
    assert len(site.recorded()) == 3


def cut_short(path: Path) -> None:
    path.chmod(0o640)
    os.truncate(path, 10)


def spoil(path: Path) -> None:
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff" if MODEL[-1] != 0xFF else b"\x00")


DAMAGE = {
    "a model that is missing": (lambda path: path.unlink(), False),
    "a model that was cut short, in the store too": (cut_short, False),
    "a model with a changed byte, in the store too": (spoil, True),
}


@pytest.mark.parametrize(("harm", "repair"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_is_repaired_by_installing_the_same_bundle_again(site, harm, repair):
    bundle = site.bundle()
    harm(site.install(bundle).path / MODEL_PATH)
    mended = site.install(bundle, repair=repair)
    assert mended.number == site.current == 2
    assert (mended.path / MODEL_PATH).read_bytes() == MODEL
    assert site.is_clean(bundle)
    assert site.install(bundle).number == 2


def test_a_held_file_with_a_changed_byte_is_copied_again_into_the_next_generation(site):
    first = site.install(site.bundle())
    spoil(first.path / MODEL_PATH)
    later = site.bundle(playbooks__new=b"- hosts: new\n")
    seen = []
    plan = installation.plan_for(site.verify(later), site.paths, progress=seen.append)
    assert [file.path for file in plan.copied if file.spoiled] == [MODEL_PATH]
    assert {event.stage for event in seen} == {"check"}
    assert (site.install(later).path / MODEL_PATH).read_bytes() == MODEL
    assert all(name == digest for name, digest in site.store().items())


def test_a_held_file_that_cannot_be_read_is_copied_again(site, monkeypatch):
    site.install(site.bundle())
    failing = OSError(5, "Input/output error")
    monkeypatch.setattr(FileReader, "readinto", lambda *_: (_ for _ in ()).throw(failing))
    plan = installation.plan_for(site.verify(site.bundle(playbooks__new=b"- hosts: new\n")), site.paths)
    assert not any(file.held for file in plan.files)


def test_a_repair_from_a_damaged_stick_is_refused_and_the_site_runs_on(site):
    bundle = site.bundle()
    cut_short(site.install(bundle).path / MODEL_PATH)
    for blob in bundle.glob("blobs/*/*"):
        if blob.stat().st_size == len(MODEL):
            spoil(blob)
    big = max(bundle.glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    spoil(big)
    with pytest.raises(DigestMismatch):
        site.install(bundle)
    assert site.current == 1


def test_a_generation_without_its_provenance_does_not_keep_its_bundle_away(site):
    bundle = site.bundle()
    (site.install(bundle).path / "bundle.json").unlink()
    assert site.install(bundle).number == site.current == 2


def test_a_generation_whose_directory_is_gone_is_installed_and_recorded_again(site):
    bundle = site.bundle()
    shutil.rmtree(site.install(bundle).path)
    assert site.install(bundle).number == site.current == 1
    assert len(site.recorded()) == 2


def test_a_pin_that_contradicts_the_trusted_root_is_refused(site):
    site.install(site.bundle())
    with pytest.raises(UntrustedRoot, match="The paper names another root"):
        site.verify(site.bundle(), pin="0" * 64)


def test_a_pin_of_an_earlier_root_of_the_same_chain_still_fits(site):
    site.install(site.bundle())
    site.forge.rotate()
    later = site.bundle()
    assert site.verify(later).root_fingerprint != site.forge.fingerprint
    site.install(later)
    assert site.current == 2
