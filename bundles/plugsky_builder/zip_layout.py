"""Reads a ZIP file in the one way that every reader agrees on, and refuses every other.

Installers disagree about ZIP files that say two things at once: one believes the local headers, another the central
directory, a third looks for the last end record it can find. Guarantees of `read`, in this order:
1. the file ends with its end record, without a comment or anything behind it; ZIP64 records agree with it;
2. the central directory lies right before that and holds exactly the announced entries;
3. entries follow each other from the first byte on without gap or overlap, each with a local header that says the same
   as its central one (name, method, sizes, checksum, ZIP64 fields, data descriptor);
4. names are relative, plain, unique and no entry is both a file and a directory; no links, no devices;
5. nothing is encrypted, and only stored and deflated data occurs.
`content` then gives a member's bytes, checked against its length and checksum, and refuses data behind the compressed
stream. Source: PKWARE's APPNOTE 6.3.10, and the archives that installers were found to disagree about (uv#15136).
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

from plugsky_bundles.errors import WheelError

MAX_ENTRIES: Final = 200_000
MAX_DIRECTORY: Final = 128 * 1024 * 1024
MAX_NAME: Final = 1024
BLOCK: Final = 1024 * 1024

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_FULL16: Final = 0xFFFF
_FULL32: Final = 0xFFFFFFFF
_ZIP64: Final = 1
_STORED, _DEFLATED = 0, 8
_ENCRYPTED: Final = 1 | 1 << 6 | 1 << 13
_DESCRIPTOR: Final = 1 << 3
_UTF8: Final = 1 << 11
_KNOWN_FLAGS: Final = _ENCRYPTED | _DESCRIPTOR | _UTF8 | 1 << 1 | 1 << 2  # the last two tell how hard it was packed
_NEWEST: Final = 45
"""The version of the format that brought ZIP64 (APPNOTE 4.4.3); a reader may refuse what needs a newer one."""
_UNIX: Final = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One entry; `start` is where its data begins, lengths are in bytes."""

    name: str
    method: int
    crc: int
    packed: int
    length: int
    start: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the central directory says of a member."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    length: int
    offset: int


def read(file: BinaryIO, size: int) -> tuple[Member, ...]:
    """The members of the archive in `file`, `size` bytes long, in file order. Raises WheelError (see above)."""
    count, start, end = _directory(file, size)
    entries = _central(_exactly(file, start, end - start, "the central directory"), count)
    members = []
    at = 0
    entries.sort(key=lambda entry: entry.offset)
    for number, entry in enumerate(entries):
        if entry.offset != at:
            fault = "overlaps the entry before it" if entry.offset < at else "leaves bytes before it that nobody lists"
            refuse(f"{entry.name!r} at byte {entry.offset} {fault}")
        after = entries[number + 1].offset if number + 1 < len(entries) else start
        data = _local(file, entry)
        at = data + entry.packed + _descriptor(file, entry, data + entry.packed, after)
        directory = entry.name.endswith("/")
        if directory and entry.length:
            refuse(f"the directory {entry.name!r} has content")
        members.append(Member(entry.name, entry.method, entry.crc, entry.packed, entry.length, data, directory))
    if at != start:
        refuse(f"{start - at} bytes lie between the entries and the central directory")
    _check_names([member.name for member in members])
    return tuple(members)


def content(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The bytes of a member in blocks; its length and checksum are checked when the last one is taken."""
    unpack = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == _DEFLATED else None
    crc = length = 0
    left = member.packed
    file.seek(member.start)
    while left:
        raw = file.read(min(BLOCK, left))
        if not raw:
            refuse(f"{member.name!r} ends early")
        left -= len(raw)
        while raw:
            try:
                block = raw if unpack is None else unpack.decompress(raw, BLOCK)
            except zlib.error as error:
                refuse(f"{member.name!r} does not unpack: {error}")
            raw = b"" if unpack is None else unpack.unconsumed_tail
            crc = zlib.crc32(block, crc)
            length += len(block)
            if length > member.length:
                refuse(f"{member.name!r} is longer than its {member.length} bytes")
            yield block
            if unpack is not None and unpack.eof and (unpack.unused_data or raw or left):
                refuse(f"{member.name!r} has bytes behind its compressed data")
    if length != member.length or crc != member.crc or (unpack is not None and not unpack.eof):
        refuse(f"{member.name!r} has another length or checksum than it says")


def refuse(why: str) -> NoReturn:
    raise WheelError("An archive cannot be trusted", why, "Get the file from its publisher again")


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """How many entries there are, and where the central directory begins and ends."""
    if size < _END.size:
        refuse(f"{size} bytes are too few for a ZIP file")
    end = size - _END.size
    record = _exactly(file, end, _END.size, "the end record")
    magic, disk, directory_disk, here, count, length, start, comment = _END.unpack(record)
    if magic != b"PK\5\6":
        refuse("it does not end with its end record: something follows it, or it is no ZIP file")
    if comment:
        refuse("it has a comment behind its end record")
    if disk or directory_disk or here != count:
        refuse("it is one of several disks")
    if count == _FULL16 or _FULL32 in (length, start):
        count, length, start, end = _zip64(file, end, (count, length, start))
    if count > MAX_ENTRIES or length > MAX_DIRECTORY:
        refuse(f"it announces {count} entries in {length} bytes, more than any wheel has")
    if start + length != end:
        refuse("its central directory is not where its end record says")
    return count, start, end


def _zip64(file: BinaryIO, end: int, short: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The same from the ZIP64 records, which must lie right before the end record and agree with it."""
    place = end - _LOCATOR.size
    record = place - _END64.size
    if record < 0:
        refuse("its ZIP64 records are missing")
    magic, disk, told, disks = _LOCATOR.unpack(_exactly(file, place, _LOCATOR.size, "the ZIP64 locator"))
    if magic != b"PK\6\7" or disk or disks > 1 or told != record:
        refuse("its ZIP64 records are not where they should be")
    fields = _END64.unpack(_exactly(file, record, _END64.size, "the ZIP64 end record"))
    magic, own, _, _, disk, directory_disk, here, count, length, start = fields
    if magic != b"PK\6\6" or own != _END64.size - 12 or disk or directory_disk or here != count:
        refuse("its ZIP64 end record is malformed")
    for narrow, wide, full in zip(short, (count, length, start), (_FULL16, _FULL32, _FULL32), strict=True):
        if narrow not in (full, wide):
            refuse("its end record and its ZIP64 end record disagree")
    return count, length, start, record


def _central(data: bytes, count: int) -> list[_Entry]:
    entries = []
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            refuse("its central directory has fewer entries than announced")
        fields = _CENTRAL.unpack_from(data, at)
        (
            magic,
            made_by,
            needs,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            length,
            named,
            extra,
            comment,
            disk,
            _,
            mode,
            offset,
        ) = fields
        at += _CENTRAL.size
        if magic != b"PK\1\2" or at + named + extra + comment > len(data):
            refuse("its central directory is malformed")
        raw = data[at : at + named]
        name = _decoded(raw, flags)
        wide = _wide(data[at + named : at + named + extra], name, (length, packed, offset))
        at += named + extra + comment
        if flags & _ENCRYPTED:
            refuse(f"{name!r} is encrypted")
        if flags & ~_KNOWN_FLAGS or needs > _NEWEST:
            refuse(f"{name!r} needs something of its reader that no wheel needs")
        if method not in (_STORED, _DEFLATED):
            refuse(f"{name!r} is packed by method {method}; allowed are stored and deflated")
        if disk:
            refuse(f"{name!r} is on another disk")
        _check_kind(name, made_by >> 8, mode >> 16)
        entries.append(_Entry(raw, name, flags, method, crc, wide[1], wide[0], wide[2]))
    if at != len(data):
        refuse("its central directory has more than the announced entries")
    return entries


def _local(file: BinaryIO, entry: _Entry) -> int:
    """Where the data of `entry` begins, after its local header was found to say the same as the central one."""
    fields = _LOCAL.unpack(_exactly(file, entry.offset, _LOCAL.size, f"the header of {entry.name!r}"))
    magic, _, flags, method, _, _, crc, packed, length, named, extra = fields
    if magic != b"PK\3\4":
        refuse(f"{entry.name!r} has no local header")
    rest = _exactly(file, entry.offset + _LOCAL.size, named + extra, f"the header of {entry.name!r}")
    if rest[:named] != entry.raw_name or (flags ^ entry.flags) & (_UTF8 | _DESCRIPTOR | _ENCRYPTED):
        refuse(f"{entry.name!r} has another name or kind in its local header")
    length, packed = _wide(rest[named:], entry.name, (length, packed), local=True)
    told = (method, crc, packed, length)
    right = (entry.method, entry.crc, entry.packed, entry.length)
    later = (entry.method, 0, 0, 0)
    if told != right and not (flags & _DESCRIPTOR and told == later):
        refuse(f"{entry.name!r} has another length, checksum or method in its local header")
    return entry.offset + _LOCAL.size + len(rest)


def _descriptor(file: BinaryIO, entry: _Entry, at: int, after: int) -> int:
    """The length of the data descriptor at `at`, which must say the same as the central directory; 0 for none."""
    if not entry.flags & _DESCRIPTOR:
        return 0
    for layout in map(struct.Struct, ("<4sLLL", "<LLL", "<4sLQQ", "<LQQ")):
        size: int = layout.size
        if at + size != after:
            continue
        fields = layout.unpack(_exactly(file, at, size, f"the descriptor of {entry.name!r}"))
        if (len(fields) == 3 or fields[0] == b"PK\7\10") and fields[-3:] == (entry.crc, entry.packed, entry.length):
            return size
    refuse(f"{entry.name!r} has no data descriptor that fits")


def _wide(extra: bytes, name: str, short: tuple[int, ...], *, local: bool = False) -> tuple[int, ...]:
    """The lengths (and offset) of an entry, from its ZIP64 field where the short ones are full.

    The field of a local header always has both lengths; where a short one is not full, the two must agree.
    """
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        tag, size = struct.unpack_from("<2H", extra, at) if at + 4 <= len(extra) else (0, len(extra))
        if at + 4 + size > len(extra) or tag in fields:
            refuse(f"{name!r} has malformed extra fields")
        fields[tag] = extra[at + 4 : at + 4 + size]
        at += 4 + size
    full = [number for number, value in enumerate(short) if value == _FULL32]
    if _ZIP64 not in fields:
        if full:
            refuse(f"{name!r} lacks its ZIP64 field")
        return short
    places = range(len(short)) if local else full
    if len(fields[_ZIP64]) != 8 * len(places):
        refuse(f"{name!r} has a ZIP64 field that does not fit")
    wide = struct.unpack(f"<{len(places)}Q", fields[_ZIP64])
    values = list(short)
    for place, value in zip(places, wide, strict=True):
        if short[place] not in (value, _FULL32):
            refuse(f"{name!r} has a ZIP64 field that says something else")
        values[place] = value
    return tuple(values)


def _decoded(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        refuse(f"the name {raw!r} is not in the encoding that it announces")
    if not name or len(raw) > MAX_NAME or not name.isprintable() or "\\" in name:
        refuse(f"the name {name[:80]!r} is empty, too long, or has characters that no wheel needs")
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        refuse(f"the name {name!r} leads outside the archive")
    return name


def _check_kind(name: str, system: int, mode: int) -> None:
    kind = stat.S_IFMT(mode) if system == _UNIX else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        refuse(f"{name!r} is a link or a device")
    if kind and (kind == stat.S_IFDIR) != name.endswith("/"):
        refuse(f"{name!r} is not what its mode says, a file or a directory")


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        plain = name.removesuffix("/")
        if plain in seen:
            refuse(f"{plain!r} occurs twice")
        seen.add(plain)
    files = {name for name in names if not name.endswith("/")}
    for name in names:
        parts = name.removesuffix("/").split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in files:
                refuse(f"{'/'.join(parts[:depth])!r} is both a file and a directory")


def _exactly(file: BinaryIO, offset: int, length: int, what: str) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        refuse(f"{what} is cut off")
    return data
