"""A sealed bundle on a stick, brought to an empty site: what is read, stored, refused, and left after a kill."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from bundles import forge as forging
from bundles.forge import NOW, Forge
from bundles.test_plan import FRESH
from plugsky_bundles import transfer
from plugsky_bundles.format import FileEntry, blob_path
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import plan_install
from plugsky_bundles.verify import verify_metadata

KILLED = """
import dataclasses, os, signal, sys
from datetime import datetime
from pathlib import Path
from plugsky_bundles import transfer
from plugsky_bundles.plan import SiteFacts, plan_install
from plugsky_bundles.media import open_bundle
from plugsky_bundles.verify import verify_metadata

bundle, fingerprint, now, store, staging, moment = sys.argv[1:]
verified = verify_metadata(open_bundle(Path(bundle)), fingerprint, now=datetime.fromisoformat(now))
plan = plan_install(verified, SiteFacts({}, {}, 1 << 40, 1 << 20, 1, {}, "3.11", "x86_64"))
events = 0
def progress(event):
    global events
    events += 1
    if events > int(moment):
        os.kill(os.getpid(), signal.SIGKILL)
transfer.apply(plan, verified, Path(store), Path(staging), progress)
"""


class Stick:
    """A sealed bundle, the plan for it, and an empty site."""

    def __init__(self, base: Path, forge: Forge, path: Path) -> None:
        self.forge, self.path = forge, path
        self.store = base / "site" / "store"
        self.staging = base / "site" / "staging"
        self.verify()

    def verify(self) -> None:
        self.verified = verify_metadata(open_bundle(self.path), self.forge.fingerprint, now=NOW)
        self.plan = plan_install(self.verified, dataclasses.replace(FRESH, store=transfer.held(self.store)))

    def entry(self, path: str) -> FileEntry:
        return self.verified.entries[path]

    def blobs(self, path: str) -> list[Path]:
        return [self.path / blob_path(blob.sha256) for blob in self.entry(path).blobs]

    def apply(self, **options) -> tuple[str, ...]:
        return transfer.apply(self.plan, self.verified, self.store, self.staging, **options)

    def stored(self) -> dict[str, bytes]:
        """Contents of the store by path in the bundle; every file there must be one that was signed."""
        by_digest = {f"sha256-{entry.sha256}": path for path, entry in self.verified.entries.items()}
        lists = {f"sha256-{entry.sha256}.chunks" for entry in self.verified.entries.values() if entry.chunks}
        return {by_digest[file.name]: file.read_bytes() for file in self.store.iterdir() if file.name not in lists}

    def killed(self, moment: int) -> None:
        """Copy in another process, which is killed after so many events."""
        arguments = [self.path, self.forge.fingerprint, NOW.isoformat(), self.store, self.staging, moment]
        done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
        assert done.returncode == -signal.SIGKILL


def sealed(base: Path, files: Mapping[str, bytes], cut: Mapping[str, tuple[int, ...]]) -> tuple[Forge, Path]:
    """A sealed bundle of `files`, cut so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forging, "CUT", cut)
        forge = Forge(base)
        return forge, forge.sealed(files=files)


def stick_with(base: Path, forge: Forge, bundle: Path) -> Stick:
    """A stick with a copy of that bundle."""
    return Stick(base, forge, Path(shutil.copytree(bundle, base / bundle.name)))


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


class Counted:
    """Counts the bytes that are read, by file."""

    def __init__(self, monkeypatch) -> None:
        self.reads: Counter[str] = Counter()
        real = os.preadv

        def counted(descriptor, buffers, *rest):
            count = real(descriptor, buffers, *rest)
            if os.RWF_NOWAIT not in rest:  # a look into the page cache
                self.reads[str(Path(f"/proc/self/fd/{descriptor}").readlink())] += count
            return count

        monkeypatch.setattr(os, "preadv", counted)

    def of_blobs(self) -> dict[str, int]:
        """Bytes read from the media, by digest."""
        return {
            path.rpartition("sha256-")[2]: count for path, count in self.reads.items() if "/blobs/" in path and count
        }


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def failing(monkeypatch, call, number, at):
    """Let a system call fail with `number` once it was made `at` times."""
    real, calls = getattr(os, call), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > at:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(os, call, fail)
