"""Reads the lock files in ``bundles/locks`` and keeps them true to ``pyproject.toml``.

A lock is a pip requirements file with one exact version and all its SHA-256 per package (pip's "hash-checking mode").
Reading needs nothing; :func:`refresh` and :func:`drift` need the ``uv`` command and the package index.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from setup.errors import SetupError

_HEAD: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$"
)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")

_UV: Final = (
    "pip",
    "compile",
    "--quiet",
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-header",
)
SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "runtime.txt": ("pyproject.toml",),
    "dev.txt": (
        "pyproject.toml",
        "--extra",
        "build",
        "--extra",
        "hsm",
        "--group",
        "dev",
        "--constraints",
        "bundles/locks/runtime.txt",
    ),
    "build.txt": ("bundles/locks/build.in",),
}
"""Each lock and the arguments of ``uv pip compile`` that make it, in the order in which they depend on each other."""


@dataclass(frozen=True)
class Pin:
    """One locked package: exact ``version``, the SHA-256 of every file that may stand for it, and its text in the
    lock."""

    name: str
    version: str
    marker: str
    sha256: frozenset[str]
    text: str


def normalised(name: str) -> str:
    """The package name as an index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str) -> list[Pin]:
    """The pins of a lock, in order.

    Raises:
        SetupError: a line that is neither a pin, a hash nor a comment, or a pin without a hash.
    """
    pins: list[Pin] = []
    head: re.Match[str] | None = None
    body: list[str] = []

    def close() -> None:
        if head is not None:
            block = "\n".join(body)
            digests = frozenset(_HASH.findall(block))
            if not digests:
                raise _unreadable(f"{head['name']} has no SHA-256")
            pins.append(Pin(normalised(head["name"]), head["version"], (head["marker"] or "").strip(), digests, block))

    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("--hash="):
            if head is None:
                raise _unreadable("a hash stands before any package")
            body.append(line)
            continue
        close()
        head, body = _HEAD.match(stripped), [line]
        if head is None:
            raise _unreadable(f"this line is no exact pin: {stripped[:80]}")
    close()
    return pins


def _unreadable(why: str) -> SetupError:
    return SetupError("A lock file cannot be read.", why, "restore it with `git checkout bundles/locks`")


def read(path: Path) -> list[Pin]:
    """The pins of the lock at ``path``."""
    return parse(path.read_text(encoding="utf-8"))


def pin_of(pins: Iterable[Pin], name: str) -> Pin:
    """The first pin of the package ``name``.

    Raises:
        SetupError: the lock does not name it.
    """
    for pin in pins:
        if pin.name == normalised(name):
            return pin
    raise _unreadable(f"{name} is not in it")


def without(pins: Iterable[Pin], name: str) -> str:
    """A requirements file of ``pins`` less one package."""
    return "\n".join(pin.text for pin in pins if pin.name != normalised(name)) + "\n"


def digest(*parts: str | bytes) -> str:
    """SHA-256 over ``parts`` with their lengths, so that no two lists of parts share one."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big"))
        total.update(raw)
    return total.hexdigest()


def refresh(root: Path, folder: Path) -> None:
    """Compile every lock into ``folder``; versions already pinned there stay while they still satisfy their source.

    Raises:
        SetupError: ``uv`` is missing or could not resolve.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise SetupError(
            "The locks cannot be compiled.",
            "the `uv` command is not on PATH",
            "install it (`pipx install uv`), then run this again",
        )
    for name, sources in SOURCES.items():
        command = [uv, *_UV, *sources, "--output-file", str(folder / name)]
        done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            why = f"`{' '.join(command)}` exited with {done.returncode}"
            raise SetupError(f"{name} cannot be compiled.", why, "read what uv says above", done.stderr.strip())


def drift(root: Path) -> list[str]:
    """The locks that no longer follow from their sources: compiled afresh, with the present pins kept, they differ."""
    held = root / "bundles/locks"
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        for name in SOURCES:
            shutil.copyfile(held / name, fresh / name)
        refresh(root, fresh)
        return [name for name in SOURCES if not _same(held / name, fresh / name)]


def _same(one: Path, other: Path) -> bool:
    return [(p.name, p.version, p.marker, p.sha256) for p in read(one)] == [
        (p.name, p.version, p.marker, p.sha256) for p in read(other)
    ]
