"""Sealed bundles of any size for benchmarks, and quiet conditions to measure them in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from plugsky_bundles import ceremony, sealing, signing
from plugsky_bundles.drafting import write_draft
from plugsky_bundles.format import MIB, Chunk, FileEntry, blob_path
from plugsky_bundles.trustdir import open_trust

PASSPHRASE = b"benchmark"
CHUNK = 64 * MIB
COMMAND = Path(sys.executable).parent / "plugsky"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Sealed:
    """A bundle, the fingerprint to pin, the bytes of its payload and the number of its chunks."""

    path: Path
    fingerprint: str
    payload: int
    chunks: int


def seal(base: Path, size: int, *, chunk: int = CHUNK) -> Sealed:
    """A bundle of `size` bytes in chunks of `chunk` bytes, no two alike.

    Made in another process: the kernel counts the memory of a process that starts a command as that command's own.
    """
    command = [sys.executable, __file__, str(base), str(size), str(chunk)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Sealed(base / "bundle", done.stdout.strip(), size, -(-size // chunk))


def make(base: Path, size: int, chunk: int) -> str:
    """Make the bundle `base/bundle`; returns the fingerprint of its root."""
    now = datetime.now(UTC)
    trust = base / "trust"
    made = ceremony.init(trust, PASSPHRASE, root_keys=1, root_threshold=1, targets_keys=1, targets_threshold=1, now=now)
    bundle = base / "bundle"
    pattern = bytearray(os.urandom(min(chunk, size)))
    entries = [_file(bundle, "models/big/weights.bin", size, chunk, pattern)]
    write_draft(
        bundle,
        entries,
        channel="bench",
        version=1,
        root=open_trust(trust).root_bytes,
        now=now,
        expires=now + timedelta(days=9),
    )
    signing.sign(bundle, trust, PASSPHRASE, now=now)
    sealing.seal(bundle, trust, PASSPHRASE, now)
    return made.fingerprint


def _file(bundle: Path, path: str, size: int, chunk: int, pattern: bytearray) -> FileEntry:
    whole, chunks = hashlib.sha256(), []
    for number, offset in enumerate(range(0, size, chunk)):
        pattern[:12] = f"{number:012}".encode()
        data = memoryview(pattern)[: min(chunk, size - offset)]
        whole.update(data)
        blob = Chunk(hashlib.sha256(data).hexdigest(), len(data))
        place = bundle / blob_path(blob.sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        chunks.append(blob)
    return FileEntry(path, size, whole.hexdigest(), tuple(chunks))


def can_drop_caches() -> bool:
    """Whether this user may empty the page cache; where not, figures are for files that may be in memory."""
    return os.access(DROP_CACHES, os.W_OK)


def quiet() -> None:
    """Everything written is on disk, and nothing that is on disk is in memory."""
    os.sync()
    if can_drop_caches():
        DROP_CACHES.write_text("3")


def conditions() -> str:
    """What a reader must know of the machine."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores ({cpu}), load {os.getloadavg()[0]:.1f} at the start" + (
        "" if can_drop_caches() else "; caches NOT dropped (needs root)"
    )


def _lines(path: str) -> Iterator[str]:
    yield from Path(path).read_text().splitlines()


def install(bundle: Sealed, root: Path, *more: str) -> list[str]:
    """The command line that installs `bundle` as a new site at `root`."""
    options = ("--root", str(root), "--pin", bundle.fingerprint, "--yes", "--progress", "none", *more)
    return [str(COMMAND), "bundle", "install", str(bundle.path), *options]


if __name__ == "__main__":
    sys.stdout.write(make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
