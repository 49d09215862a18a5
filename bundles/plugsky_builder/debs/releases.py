"""What is known of each Debian release whose packages can travel: its suites, who signs them, where they are served.

The keys are pinned here by fingerprint; the keyring of the build machine only supplies their bytes. Source: the
release keys at https://ftp-master.debian.org/keys.html and the package debian-archive-keyring 2025.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky_builder.debs.recipe_part import DebsRecipe
from plugsky_bundles.errors import RecipeError

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHIVES: Final = {
    "debian": "http://deb.debian.org/debian",
    "debian-security": "http://deb.debian.org/debian-security",
}
"""Debian's archives and where they are served; plain HTTP, because everything is checked by signature and hash."""
COMPONENT: Final = "main"


@dataclass(frozen=True, slots=True, order=True)
class Suite:
    """One suite of an archive, for example `trixie-security` of `debian-security`."""

    archive: str
    name: str

    @property
    def folder(self) -> str:
        """Where it lies below a mirror of all archives."""
        return f"{self.archive}/dists/{self.name}"

    def index(self, arch: str) -> str:
        """The path of its list of packages, below `folder`."""
        return f"{COMPONENT}/binary-{arch}/Packages.xz"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class DebianRelease:
    """A release: `suites` in order, the release itself first; `keys` are the primary keys that may sign any of them.

    `keyring` has those keys' bytes, among others.
    """

    codename: str
    suites: tuple[Suite, ...]
    keys: frozenset[str]
    keyring: Path = KEYRING


def _release(codename: str, *keys: str) -> DebianRelease:
    suites = (
        Suite("debian", codename),
        Suite("debian", f"{codename}-updates"),
        Suite("debian-security", f"{codename}-security"),
    )
    return DebianRelease(codename, suites, frozenset(keys))


DEBIAN: Final = {
    "debian-12": _release(
        "bookworm",
        "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
        "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0",
        "4D64FEC119C2029067D6E791F8D2585B8783D481",
    ),
    "debian-13": _release(
        "trixie",
        "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
        "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
        "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
    ),
}
"""Archive, security and release key of each."""


def release_of(system: str) -> DebianRelease:
    """The release of a target's `os`. Raises RecipeError for one whose packages cannot be carried."""
    if system not in DEBIAN:
        raise RecipeError(
            f"Packages for {system} cannot be put into a bundle",
            f"the releases known here are {', '.join(DEBIAN)}",
            "Leave out [debs], or the target",
        )
    return DEBIAN[system]


def mirrors(recipe: DebsRecipe) -> dict[str, str]:
    """Where the recipe wants each archive fetched from; PLUGSKY_MIRRORS may lead elsewhere."""
    return {
        "debian": recipe.mirror or ARCHIVES["debian"],
        "debian-security": recipe.security_mirror or ARCHIVES["debian-security"],
    }
