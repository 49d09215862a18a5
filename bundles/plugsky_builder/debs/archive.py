"""Reads a .deb without unpacking it: its control fields, its maintainer scripts, and what would land where.

An `ar` archive of exactly debian-binary, control.tar and data.tar, the latter two plain or packed with gzip or xz, as
Debian's own tools write them (deb(5)); a tar of ustar and GNU headers (tar(5)). Nothing is written, no program is run.
Bounded: 16 MiB of control.tar, 8 GiB of data.tar and a million members, each name at most 4096 bytes, and a time.
Another packing is refused: Debian's archive has none (and dpkg-deb can be kept busy for ever by zstd, CVE-2026-2219).
"""

from __future__ import annotations

import lzma
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from debian.deb822 import Deb822

from plugsky_bundles.errors import SourceError
from plugsky_bundles.format import MIB

MAX_CONTROL: Final = 16 * MIB
MAX_DATA: Final = 8192 * MIB
MAX_MEMBERS: Final = 1_000_000
MAX_NAME: Final = 4096
MAX_XZ_MEMORY: Final = 256 * MIB
SECONDS: Final = 300.0
BLOCK: Final = MIB
SCRIPTS: Final = ("config", "postinst", "postrm", "preinst", "prerm")
SETUID: Final = 0o6000

_REGULAR, _HARD_LINK, _SYMLINK, _FOLDER = b"0", b"1", b"2", b"5"
_LONG_NAME, _LONG_LINK = b"L", b"K"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: its type as the header writes it, and its content where it was asked for."""

    name: str
    kind: bytes
    mode: int
    link: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Deb:
    """What a .deb says and holds. `scripts` maps a maintainer script to its text, `setuid` a path to its mode."""

    control: dict[str, str]
    scripts: dict[str, bytes]
    setuid: dict[str, int]
    members: int
    unpacked: int


def read(path: Path, what: str) -> Deb:
    """Read the .deb at `path`, called `what` in an error. Raises SourceError for one that is not as described above."""
    deadline = time.monotonic() + SECONDS
    with path.open("rb") as file:
        try:
            return _read(file, deadline)
        except (ValueError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise SourceError(f"{what} is not a package that can travel", str(error), _DO) from error


def read_some(path: Path, what: str, wanted: Callable[[str], bool], limit: int) -> list[Member]:
    """Of the .deb at `path`: the files whose name is `wanted`, each at most `limit` bytes, and all symbolic links.

    Names are relative to the root of the target. Raises SourceError as `read` does, and for a longer file.
    """
    deadline = time.monotonic() + SECONDS
    with path.open("rb") as file:
        try:
            data = _to_data(file, deadline)
            return [
                replace(member, name=_plain(member.name))
                for member in _members(data, lambda name: wanted(_plain(name)), limit)
                if member.kind == _SYMLINK or (member.kind == _REGULAR and member.content is not None)
            ]
        except (ValueError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise SourceError(f"{what} is not a package that can travel", str(error), _DO) from error


def _to_data(file: BinaryIO, deadline: float) -> _Unpacked:
    """The data.tar of a package that has been read as a whole before."""
    file.seek(8)
    for _ in range(2):
        _, size = _member_header(file)
        file.seek(size + size % 2, os.SEEK_CUR)
    name, size = _member_header(file)
    return _Unpacked(file, name, "data.tar", size, MAX_DATA, deadline)


def _plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _read(file: BinaryIO, deadline: float) -> Deb:
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is no ar archive")
    name, size = _member_header(file)
    if name != "debian-binary" or size > 64 or not _exactly(file, size).startswith(b"2."):
        raise ValueError("it does not begin with debian-binary")
    _skip_padding(file, size)
    name, size = _member_header(file)
    fields, scripts = _control(_Unpacked(file, name, "control.tar", size, MAX_CONTROL, deadline))
    _skip_padding(file, size)
    name, size = _member_header(file)
    data = _Unpacked(file, name, "data.tar", size, MAX_DATA, deadline)
    setuid, members = _data(data)
    _skip_padding(file, size)
    if file.read(1):
        raise ValueError("something follows its data.tar")
    return Deb(fields, scripts, setuid, members, data.unpacked)


def _control(tar: _Unpacked) -> tuple[dict[str, str], dict[str, bytes]]:
    fields: dict[str, str] | None = None
    scripts: dict[str, bytes] = {}
    for member in _members(tar, keep=lambda name: name.removeprefix("./") in {"control", *SCRIPTS}):
        name = member.name.removeprefix("./")
        if member.content is None:
            continue
        if member.kind != _REGULAR or name in scripts or (name == "control" and fields is not None):
            raise ValueError(f"its control.tar has {name!r} twice, or as no plain file")
        if name == "control":
            fields = dict(Deb822(member.content))
        else:
            scripts[name] = member.content
    if not fields:
        raise ValueError("it has no control file")
    return fields, dict(sorted(scripts.items()))


def _data(tar: _Unpacked) -> tuple[dict[str, int], int]:
    setuid: dict[str, int] = {}
    count = 0
    for member in _members(tar):
        count += 1
        name = _plain(member.name)
        _check_inside(name)
        if member.kind == _HARD_LINK:
            _check_inside(member.link.removeprefix("./"))
        elif member.kind not in (_REGULAR, _SYMLINK, _FOLDER):
            raise ValueError(f"{name!r} is a device or something else that no package needs")
        if member.kind == _REGULAR and member.mode & SETUID:
            setuid[name] = member.mode
    return setuid, count


def _check_inside(name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} would land outside")


class _Unpacked:
    """The content of one member of the ar archive, unpacked as it is read, and never more than `limit`."""

    def __init__(self, file: BinaryIO, name: str, stem: str, size: int, limit: int, deadline: float) -> None:
        self._file = file
        self._left = size
        self._limit = limit
        self._deadline = deadline
        self._buffer = b""
        self.unpacked = 0
        packing = name.removeprefix(stem)
        if not name.startswith(stem) or packing not in ("", ".xz", ".gz"):
            raise ValueError(f"{name!r} stands where {stem}.xz or {stem}.gz should")
        if packing == ".xz":
            self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY)
            self._next = self._next_xz
        elif packing == ".gz":
            self._gz = zlib.decompressobj(16 + zlib.MAX_WBITS)
            self._next = self._next_gz
        else:
            self._next = self._packed

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises EOFError where there are fewer."""
        while len(self._buffer) < size:
            block = self._more()
            if not block:
                raise EOFError("a tar in it ends too early")
            self._buffer += block
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def skip(self, size: int) -> None:
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer = self._more()
            if not self._buffer:
                raise EOFError("a tar in it ends too early")
        self._buffer = self._buffer[size:]

    def drain(self) -> None:
        """Read to the end; only zeros may follow."""
        while True:
            if self._buffer.strip(b"\0"):
                raise ValueError("something follows the end of a tar in it")
            self._buffer = self._more()
            if not self._buffer:
                return

    def _more(self) -> bytes:
        if time.monotonic() > self._deadline:
            raise ValueError(f"it does not unpack within {SECONDS:.0f} seconds")
        block = self._next()
        self.unpacked += len(block)
        if self.unpacked > self._limit:
            raise ValueError(f"it unpacks to more than {self._limit} bytes")
        return block

    def _packed(self) -> bytes:
        block = _exactly(self._file, min(BLOCK, self._left))
        self._left -= len(block)
        return block

    def _next_xz(self) -> bytes:
        while not self._xz.eof:
            block = self._xz.decompress(self._packed() if self._xz.needs_input else b"", BLOCK)
            if block:
                return block
            if self._xz.needs_input and not self._left and not self._xz.eof:
                raise EOFError("an xz stream in it ends too early")
        if self._xz.unused_data or self._left:
            raise ValueError("something follows an xz stream in it")
        return b""

    def _next_gz(self) -> bytes:
        while not self._gz.eof:
            block = self._gz.decompress(self._gz.unconsumed_tail or self._packed(), BLOCK)
            if block:
                return block
            if not self._gz.unconsumed_tail and not self._left and not self._gz.eof:
                raise EOFError("a gzip stream in it ends too early")
        if self._gz.unused_data or self._left:
            raise ValueError("something follows a gzip stream in it")
        return b""


def _members(
    tar: _Unpacked, keep: Callable[[str], bool] = lambda _: False, limit: int = MAX_CONTROL
) -> Iterator[Member]:
    """The members of a tar in their order; the content of those to `keep` comes along, at most `limit` bytes each."""
    long: dict[bytes, str] = {}
    for _ in range(MAX_MEMBERS):
        header = tar.exactly(512)
        if not header.strip(b"\0"):
            tar.drain()
            return
        _check_sum(header)
        kind, size = header[156:157].replace(b"\0", b"0"), _number(header[124:136])
        if kind in (_LONG_NAME, _LONG_LINK):
            if size > MAX_NAME:
                raise ValueError("a name in it is too long")
            long[kind] = _text(tar.exactly(size))
            tar.skip(-size % 512)
            continue
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
        short = _text(header[:100])
        name = long.pop(_LONG_NAME, f"{prefix}/{short}" if prefix else short)
        link = long.pop(_LONG_LINK, _text(header[157:257]))
        content = None
        if keep(name):
            if size > limit:
                raise ValueError(f"{name!r} in it is longer than {limit} bytes")
            content = tar.exactly(size)
            tar.skip(-size % 512)
        else:
            tar.skip(size + -size % 512)
        yield Member(name, kind, _number(header[100:108]), link, content)
    raise ValueError(f"it has more than {MAX_MEMBERS} members")


def _check_sum(header: bytes) -> None:
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != _number(header[148:156]):
        raise ValueError("a tar header in it is damaged")


def _number(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError("a tar header in it has no octal number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _member_header(file: BinaryIO) -> tuple[str, int]:
    header = _exactly(file, 60)
    if header[58:] != b"`\n":
        raise ValueError("a header of its ar archive is damaged")
    size = header[48:58].strip()
    if not size.isdigit():
        raise ValueError("a header of its ar archive has no size")
    return header[:16].decode("ascii", "replace").strip().rstrip("/"), int(size)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends too early")
    return data


def _skip_padding(file: BinaryIO, size: int) -> None:
    if size % 2:
        _exactly(file, 1)


_DO: Final = "Check where the package comes from; Debian's own archive has none like it"
