"""The lock of a target's Debian packages: the question, Debian's signed state that answered it, and the answer.

One line each, so that a change reads well in a review; the first word says what a line is:

```
lock 1
target debian-13-amd64
packages libgomp1 python3
status -                                    # or the SHA-256 of the package status it was resolved against
suite debian/dists/trixie 2026-09-12T07:55:41Z <SHA-256 and length of InRelease> <of Packages.xz>
package debconf=1.5.91 all 121088 <SHA-256> debian/pool/main/d/debconf/debconf_1.5.91_all.deb
```

Everything that travels follows from the packages' hashes and the newest date of the suites.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from plugsky_builder.debs.releases import Suite
from plugsky_builder.debs.upstream import Package
from plugsky_bundles.errors import BundleError, NotFound, RecipeError
from plugsky_bundles.format import check_target_path, is_sha256
from plugsky_bundles.times import parse_stamp, stamp

HEADER: Final = "lock 1"
BARE: Final = "-"
MAX_LOCK: Final = 4 * 1024 * 1024
_PIN: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}=([0-9]+:)?[A-Za-z0-9.+~-]{1,128}", re.ASCII)
_PATH: Final = re.compile(r"[a-z-]+(/[A-Za-z0-9.+~_-]+)+\.deb", re.ASCII)


@dataclass(frozen=True, slots=True)
class LockedSuite:
    """The state of a suite when the lock was made; lengths in bytes, `date` as its InRelease says it."""

    suite: Suite
    date: datetime
    inrelease_sha256: str
    inrelease_length: int
    index_sha256: str
    index_length: int


@dataclass(frozen=True, slots=True)
class DebLock:
    """A lock; `status` is the SHA-256 of a package status, or `BARE`."""

    target: str
    packages: tuple[str, ...]
    status: str
    suites: tuple[LockedSuite, ...]
    debs: tuple[Package, ...]

    @property
    def date(self) -> datetime:
        """When Debian's state was the one that is locked: the newest date of its suites."""
        return max(suite.date for suite in self.suites)

    @property
    def question(self) -> tuple[str, tuple[str, ...], str]:
        """What the lock answers."""
        return self.target, self.packages, self.status


def write(lock: DebLock) -> str:
    """The lock as text."""
    lines = [
        f"# Debian packages for {lock.target}, made by `plugsky bundle lock`. See docs/debian-parts.md.",
        HEADER,
        f"target {lock.target}",
        f"packages {' '.join(lock.packages)}",
        f"status {lock.status}",
    ]
    lines += [
        f"suite {s.suite.folder} {stamp(s.date)} {s.inrelease_sha256} {s.inrelease_length}"
        f" {s.index_sha256} {s.index_length}"
        for s in lock.suites
    ]
    lines += [f"package {d.name}={d.version} {d.architecture} {d.length} {d.sha256} {d.path}" for d in lock.debs]
    return "".join(f"{line}\n" for line in lines)


def read(path: Path) -> DebLock:
    """The lock at `path`. Raises NotFound or RecipeError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LOCK + 1)
    except OSError as error:
        raise NotFound(
            f"The lock {path} cannot be read",
            error.strerror or "it cannot be opened",
            "Make it with `plugsky bundle lock RECIPE`",
        ) from error
    if len(raw) > MAX_LOCK:
        raise _refused(path, f"it is longer than {MAX_LOCK} bytes")
    try:
        return parse(raw.decode("ascii"))
    except (ValueError, BundleError) as error:
        raise _refused(path, error.why if isinstance(error, BundleError) else str(error)) from error


def parse(text: str) -> DebLock:
    """The lock that `text` is. Raises ValueError that names the line."""
    heads: dict[str, list[str]] = {}
    suites: list[LockedSuite] = []
    debs: list[Package] = []
    for number, line in enumerate(text.splitlines(), 1):
        match line.split():
            case [] | ["#", *_]:
                pass
            case ["lock" | "target" | "packages" | "status" as word, *values] if word not in heads and values:
                heads[word] = values
            case ["suite", folder, date, digest, length, index, index_length]:
                suites.append(_suite(number, folder, date, digest, length, index, index_length))
            case ["package", pin, architecture, length, digest, path]:
                debs.append(_package(number, pin, architecture, length, digest, path))
            case _:
                raise _wrong(number, "is not understood")
    if heads.get("lock") != ["1"] or not {"target", "packages", "status"} <= heads.keys() or not suites or not debs:
        msg = "it is not a complete lock of version 1"
        raise ValueError(msg)
    if len({deb.name for deb in debs}) != len(debs) or len({deb.file for deb in debs}) != len(debs):
        msg = "it names a package twice"
        raise ValueError(msg)
    return DebLock(heads["target"][0], tuple(heads["packages"]), heads["status"][0], tuple(suites), tuple(sorted(debs)))


def _suite(number: int, folder: str, date: str, digest: str, length: str, index: str, index_length: str) -> LockedSuite:
    archive, _, name = folder.partition("/dists/")
    if not name or not is_sha256(digest) or not is_sha256(index):
        raise _wrong(number, "is no suite")
    return LockedSuite(
        Suite(archive, name),
        parse_stamp(date, f"line {number}"),
        digest,
        _count(number, length),
        index,
        _count(number, index_length),
    )


def _package(number: int, pin: str, architecture: str, length: str, digest: str, path: str) -> Package:
    if _PIN.fullmatch(pin) is None or _PATH.fullmatch(path) is None or ".." in path or not is_sha256(digest):
        raise _wrong(number, "is no package")
    name, _, version = pin.partition("=")
    package = Package(name, version, architecture, _count(number, length), digest, path)
    check_target_path(f"debs/target/{package.file}")
    return package


def _count(number: int, text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise _wrong(number, f"has no length in {text!r}")
    return int(text)


def _wrong(number: int, why: str) -> ValueError:
    return ValueError(f"line {number} {why}")


def _refused(path: Path, why: str) -> RecipeError:
    return RecipeError(f"The lock {path.name} cannot be used", why, "Make it again with `plugsky bundle lock RECIPE`")
