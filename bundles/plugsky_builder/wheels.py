"""The Python parts of a bundle: one wheel per locked package that this host needs, and the lock that travels.

* Packages on the index come by pip, which also decides which lines of the lock apply to this Python and platform.
* Packages named `compiled` in the recipe come from the wheelhouse, where the set-up put the wheel it compiled; the
  version must be the locked one, and the hash of that wheel is what travels.
* The travelling lock names every wheel with its one hash, sorted, so that equal parts give equal bytes.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_builder import locks, own_wheel, pip_download
from plugsky_builder.cache import Cache
from plugsky_builder.locks import Pin, normalised
from plugsky_builder.recipe import PythonRecipe
from plugsky_bundles.errors import DigestMismatch, SourceError
from plugsky_bundles.progress import Progress, ProgressEvent

LOCK_NAME: Final = "python/requirements.txt"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file; `unpacked` is the sum of its `members` in bytes."""

    file: str
    path: Path
    sha256: str
    length: int
    unpacked: int
    members: int

    @property
    def pin(self) -> str:
        name, version = self.file.split("-")[:2]
        return f"{normalised(name)}=={version} --hash=sha256:{self.sha256}"


def gather(recipe: PythonRecipe, wheelhouse: Path, cache: Cache, progress: Progress) -> list[Wheel]:
    """Every wheel of the recipe, sorted by file name."""
    pins = locks.read(recipe.lock)
    compiled = {normalised(name) for name in recipe.compiled}
    missing = compiled - {pin.name for pin in pins}
    if missing:
        raise SourceError(f"{', '.join(sorted(missing))} is not in the lock", "the recipe lists it", "Update the lock")
    wheels = _from_index([pin for pin in pins if pin.name not in compiled], cache, progress)
    wheels += [_from_wheelhouse(pin, wheelhouse) for pin in pins if pin.name in compiled]
    if recipe.appliance:
        progress(ProgressEvent("fetch", len(pins), len(pins) + 1, "the appliance's own wheel"))
        wheels.append(_describe(own_wheel.build(cache.work("appliance"), wheelhouse)))
    return sorted(wheels, key=lambda wheel: wheel.file)


def travelling_lock(wheels: Iterable[Wheel]) -> bytes:
    """The lock of exactly these wheels."""
    return "".join(f"{line}\n" for line in sorted(wheel.pin for wheel in wheels)).encode("ascii")


def target_facts() -> dict[str, str]:
    """The Python and machine that the wheels are for, as the site compares them: its own."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), "machine": platform.machine()}


def _from_index(pins: list[Pin], cache: Cache, progress: Progress) -> list[Wheel]:
    """The wheels that pip picks for this host, remembered under the exact question."""
    text = "".join(f"{pin.line()}\n" for pin in pins)
    question = f"{platform.python_version()} {sysconfig.get_platform()} {platform.libc_ver()}\n{text}"
    key = f"python-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
    known: dict[str, str] | None = cache.note(key)
    if known is None or not all(cache.has(digest) for digest in known.values()):
        allowed = {digest for pin in pins for digest in pin.hashes}
        folder = cache.work(key)
        pip_download.download(text, folder, expected=len(pins), progress=progress)
        known = {}
        for path in sorted(folder.glob("*.whl")):
            known[path.name] = cache.adopt(path)
            if known[path.name] not in allowed:
                raise DigestMismatch(f"{path.name} is not what the lock pins", "its SHA-256 differs", "Run it again")
        cache.keep_note(key, known)
        cache.drop_work(key)
    return [_describe(cache.file(digest), name, digest) for name, digest in known.items()]


def _from_wheelhouse(pin: Pin, wheelhouse: Path) -> Wheel:
    stem = pin.name.replace("-", "_")
    found = sorted(wheelhouse.glob(f"{stem}-{pin.version}-*.whl"))
    if len(found) != 1:
        count = "several wheels" if found else "no wheel"
        raise SourceError(
            f"There is {count} of {pin.name} {pin.version} in {wheelhouse}",
            "it is compiled on the build machine and not downloaded",
            "Run `make setup`, or name the folder with its wheel by --wheelhouse or PLUGSKY_WHEELHOUSE",
        )
    return _describe(found[0])


def _describe(path: Path, name: str | None = None, sha256: str | None = None) -> Wheel:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [member.file_size for member in archive.infolist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"{name or path.name} is not a wheel", str(error), "Remove it and run it again") from error
    if sha256 is None:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Wheel(name or path.name, path, sha256, path.stat().st_size, sum(sizes), len(sizes))
