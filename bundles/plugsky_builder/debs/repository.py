"""A flat apt repository, as text: `Packages` lists the .debs that lie beside it, `Release` names it by SHA-256. Pure.

Everything follows from the packages and the date that is given, so equal locks give equal bytes. The date is the one of
Debian's state and not of the build: apt takes an older repository than the one it saw last for an attack, and a newer
lock has a newer date. There is no Valid-Until, because a site stays as it is until somebody carries something in.
Source: https://wiki.debian.org/DebianRepository/Format, "flat repository format".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from plugsky_builder.debs.lint import Examined

ORIGIN: Final = "Plugsky"
_OWN: Final = ("Filename", "Size", "SHA256")


def packages(examined: Sequence[Examined]) -> bytes:
    """The list of packages: each one's own control fields, and where it is and what it hashes to."""
    return b"\n".join(_entry(item) for item in sorted(examined, key=lambda item: item.package))


def _entry(item: Examined) -> bytes:
    package = item.package
    fields = {key: value for key, value in item.deb.control.items() if key not in _OWN}
    fields |= {"Filename": f"./{package.file}", "Size": str(package.length), "SHA256": package.sha256}
    return "".join(f"{key}: {value}\n" for key, value in fields.items()).encode("utf-8")


def release(listing: bytes, *, target: str, codename: str, arch: str, date: datetime) -> bytes:
    """The Release file of a repository with that list of packages; `date` in UTC."""
    lines = [
        f"Origin: {ORIGIN}",
        f"Label: {ORIGIN} {target}",
        f"Suite: {codename}",
        f"Codename: {codename}",
        f"Date: {format_datetime(date).replace('+0000', 'UTC')}",
        f"Architectures: {arch} all",
        f"Description: Debian packages of a bundle for {target}",
        "SHA256:",
        f" {hashlib.sha256(listing).hexdigest()} {len(listing)} Packages",
    ]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def source(folder: str, keyring: str) -> str:
    """How apt is told of the repository in `folder` of a host: a deb822 source that trusts `keyring` and no other."""
    return f"Types: deb\nURIs: file:{folder}\nSuites: ./\nSigned-By: {keyring}\nCheck-Date: no\n"
