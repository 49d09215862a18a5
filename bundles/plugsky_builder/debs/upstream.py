"""Debian's own word for a package: a signed InRelease, the list of packages that it vouches for, the package's entry.

* An InRelease counts when gpgv finds a good signature by a key that `releases` pins for that release, and only the text
  under the signature is read. It must be of the suite that was asked for, so that one suite cannot stand for another.
* An index is the file whose length and SHA-256 stand in that text.
* A package is proven when an entry of such an index has its name, version, architecture, length and SHA-256.

Everything is bounded: 2 MiB of InRelease, 64 MiB of index, 1 GiB unpacked.
"""

from __future__ import annotations

import lzma
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from debian.deb822 import Deb822

from plugsky_builder import system_tools
from plugsky_builder.debs.releases import DebianRelease, Suite
from plugsky_bundles.errors import DigestMismatch, SourceError
from plugsky_bundles.format import MIB, is_sha256

MAX_INRELEASE: Final = 2 * MIB
MAX_INDEX: Final = 64 * MIB
MAX_UNPACKED: Final = 1024 * MIB
MAX_ENTRY: Final = MIB
BLOCK: Final = 4 * MIB
_NAME: Final = re.compile(rb"^Package: ?([^\s]+)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SignedSuite:
    """What a verified InRelease says: when it was made, until when it counts, and which index it vouches for."""

    suite: Suite
    date: datetime
    valid_until: datetime | None
    signers: tuple[str, ...]
    index_sha256: str
    index_length: int


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One binary package as an index or a lock names it; `path` is that below a mirror of all archives."""

    name: str
    version: str
    architecture: str
    length: int
    sha256: str
    path: str

    @property
    def file(self) -> str:
        """The name that it travels under: that of the archive's pool, which leaves out the epoch."""
        return self.path.rsplit("/", 1)[-1]


def verify(inrelease: bytes, suite: Suite, release: DebianRelease, arch: str) -> SignedSuite:
    """Check the signature and read what is signed. Raises DigestMismatch or SourceError."""
    what = f"The InRelease of {suite}"
    if len(inrelease) > MAX_INRELEASE:
        raise DigestMismatch(f"{what} is not usable", f"it is longer than {MAX_INRELEASE} bytes", _CHECK)
    if not release.keyring.is_file():
        raise SourceError(
            f"{what} cannot be checked", f"{release.keyring} is not there", "apt-get install debian-archive-keyring"
        )
    gpgv = system_tools.find("gpgv", "gpgv")
    status = os.memfd_create("status", os.MFD_CLOEXEC)
    try:
        command = [gpgv, "--keyring", str(release.keyring), "--status-fd", str(status), "--output", "-"]
        said = system_tools.run(command, seconds=60, stdin=inrelease, keep=(status,))
        os.lseek(status, 0, os.SEEK_SET)
        signers = _good_signers(os.read(status, MIB).decode("utf-8", "replace"))
    finally:
        os.close(status)
    trusted = tuple(sorted(signers & release.keys))
    if not trusted:
        why = f"none of the keys of {release.codename} signed it, or this machine's keyring is older than they are"
        raise DigestMismatch(f"{what} is not Debian's", why, f"Renew debian-archive-keyring; then: {_CHECK}")
    return _read(said.out, suite, arch, trusted, what)


def _good_signers(status: str) -> set[str]:
    """The primary keys of good signatures: gpg's GOODSIG says that neither key nor signature has expired."""
    found: set[str] = set()
    good = False
    for line in status.splitlines():
        match line.split():
            case ["[GNUPG:]", "NEWSIG", *_]:
                good = False
            case ["[GNUPG:]", "GOODSIG", *_]:
                good = True
            case ["[GNUPG:]", "VALIDSIG", *_, primary] if good:
                found.add(primary)
            case _:
                pass
    return found


def _read(signed: bytes, suite: Suite, arch: str, signers: tuple[str, ...], what: str) -> SignedSuite:
    fields = Deb822(signed)
    if fields.get("Codename") != suite.name:
        raise DigestMismatch(f"{what} is of another suite", f"it says {fields.get('Codename')!r}", _CHECK)
    wanted = suite.index(arch)
    for line in fields.get("SHA256", "").splitlines():
        match line.split():
            case [digest, length, name] if name == wanted and is_sha256(digest) and length.isdecimal():
                if int(length) > MAX_INDEX:
                    raise DigestMismatch(f"{what} is not usable", f"its index has {length} bytes", _CHECK)
                until = fields.get("Valid-Until")
                return SignedSuite(
                    suite,
                    _date(fields.get("Date", ""), what),
                    None if until is None else _date(until, what),
                    signers,
                    digest,
                    int(length),
                )
            case _:
                pass
    raise SourceError(f"{what} has no packages for {arch}", f"it does not list {wanted}", _CHECK)


def _date(text: str, what: str) -> datetime:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError as error:
        raise DigestMismatch(f"{what} is not usable", f"{text!r} is no date", _CHECK) from error


def entries(index: Path, suite: Suite, wanted: Callable[[str], bool]) -> Iterator[tuple[Package, Deb822]]:
    """The packages of a verified index whose name is `wanted`, with all their fields.

    Raises DigestMismatch for an index that does not unpack, or an entry that cannot be used.
    """
    for entry in _stanzas(index):
        match = _NAME.search(entry)
        if match is None or not wanted(match[1].decode("ascii", "replace")):
            continue
        fields = Deb822(entry)
        try:
            name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
            length, digest, path = int(fields["Size"]), fields["SHA256"], fields["Filename"]
        except (KeyError, ValueError) as error:
            raise DigestMismatch(f"The index of {suite} cannot be used", f"an entry lacks {error}", _CHECK) from error
        yield Package(name, version, architecture, length, digest, f"{suite.archive}/{path}"), fields


def _stanzas(index: Path) -> Iterator[bytes]:
    rest = b""
    unpacked = 0
    try:
        with lzma.open(index) as file:
            while block := file.read(BLOCK):
                unpacked += len(block)
                *whole, rest = (rest + block).split(b"\n\n")
                yield from whole
                if unpacked > MAX_UNPACKED or len(rest) > MAX_ENTRY:
                    raise DigestMismatch(f"The index {index.name} cannot be used", "it is far too long", _CHECK)
    except (lzma.LZMAError, EOFError) as error:
        raise DigestMismatch(f"The index {index.name} does not unpack", str(error), _CHECK) from error
    if rest.strip():
        yield rest


_CHECK: Final = "Check the mirror; if it is right, what it serves was tampered with"
