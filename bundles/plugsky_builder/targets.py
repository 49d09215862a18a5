"""The hosts that a bundle is made for, and what each means for Python parts. Pure.

A target is an operating system's release, its own Python, an architecture by Debian's name and an accelerator. From it
follow the environment in which a lock's markers are evaluated (PEP 508), the tags that a wheel may have (PEP 425 and
600, up to the release's glibc) and the folder that its parts lie in. Nothing here looks at the build machine.
Source: the package lists of each release, for the versions of Python and glibc that its stable suite has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from packaging import tags
from packaging.tags import Tag

LOCK_NAME: Final = "requirements.txt"


@dataclass(frozen=True, slots=True)
class Release:
    """A release of an operating system; `python` is its own, in full. Our tests install on the `tested` ones."""

    suite: str
    python: str
    glibc: tuple[int, int]
    libstdcxx: tuple[int, int, int]
    tested: bool


RELEASES: Final = {
    "debian-12": Release("bookworm", "3.11.2", (2, 36), (3, 4, 30), tested=True),
    "debian-13": Release("trixie", "3.13.5", (2, 41), (3, 4, 33), tested=True),
    "ubuntu-24.04": Release("noble", "3.12.3", (2, 39), (3, 4, 33), tested=False),
}
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Architectures by Debian's name, and what the kernel and Python call them."""
ACCELERATORS: Final = ("cpu", "cuda-12", "cuda-13")
OLDEST_GLIBC: Final = {"x86_64": 5, "aarch64": 17}
"""The oldest minor version of glibc 2 that a manylinux tag can name (PEP 600)."""
LEGACY: Final = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One kind of host; every value is a key of the tables above, `python` is major.minor."""

    os: str
    arch: str
    python: str
    accelerator: str = "cpu"

    @property
    def folder(self) -> str:
        """Below `python/` and `debs/`: where the parts for this target lie."""
        return f"{self.os}-{self.arch}"

    @property
    def lock_path(self) -> str:
        """The lock of this target's wheels in a bundle."""
        return f"python/{self.folder}/{LOCK_NAME}"

    @property
    def release(self) -> Release:
        return RELEASES[self.os]

    @property
    def machine(self) -> str:
        return MACHINES[self.arch]

    def __str__(self) -> str:
        return f"{self.os} on {self.arch} with Python {self.python} and {self.accelerator}"

    def facts(self) -> dict[str, str]:
        """What travels beside the target's lock, so that a site can find the parts that are for it."""
        return {
            "os": self.os,
            "arch": self.arch,
            "machine": self.machine,
            "python": self.python,
            "accelerator": self.accelerator,
            "glibc": "{}.{}".format(*self.release.glibc),
        }

    def environment(self) -> dict[str, str]:
        """The values of the markers on this target. Its kernel is not known, so its release and version are empty."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.release.python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.release.python,
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def platforms(self) -> list[str]:
        """The platform tags of wheels that promise to run here, newest first."""
        newest, oldest = self.release.glibc[1], OLDEST_GLIBC[self.machine]
        names = []
        for minor in range(newest, oldest - 1, -1):
            names.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in LEGACY:
                names.append(f"{LEGACY[minor]}_{self.machine}")
        return names

    def tags(self, *, compiled: bool = False) -> frozenset[Tag]:
        """The tags that a wheel may have; a `compiled` one also its machine's plain tag, which promises nothing."""
        major, minor = (int(part) for part in self.python.split("."))
        platforms = [*self.platforms(), *([f"linux_{self.machine}"] if compiled else [])]
        interpreter = f"cp{major}{minor}"
        exact = tags.cpython_tags((major, minor), abis=[interpreter], platforms=platforms)
        common = tags.compatible_tags((major, minor), interpreter=interpreter, platforms=platforms)
        return frozenset((*exact, *common))
