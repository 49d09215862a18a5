"""What a compiled library asks of the host that loads it: its processor, its libraries, their symbol versions.

A wheel that was compiled here promises nothing by its name (`linux_x86_64`), so its libraries are asked: a symbol
version newer than the target's glibc or libstdc++, a library that neither the wheel nor the target has, or another
processor would stop it behind the gap. Reads the dynamic segment, as the loader does; 64-bit little-endian only.
Source: the ELF specification (gABI 4.1), and the LSB core specification 5.0, chapter 10, for version needs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from plugsky_builder.targets import Target
from plugsky_builder.zip_layout import refuse

MACHINES: Final = {62: "x86_64", 183: "aarch64"}
MAX_RECORDS: Final = 65_536
LIBRARIES: Final = re.compile(
    r"(ld-linux-[a-z0-9-]+|libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|libgomp|libssl|libcrypto|libz)\.so\.[0-9]+"
)
"""What every target has: glibc's and the compiler's libraries, OpenMP (libgomp1 travels), and what Python needs."""
CUDA_LIBRARIES: Final = re.compile(r"(libcuda|libcudart|libcublas|libcublasLt)\.so\.[0-9]+")
_VERSION: Final = re.compile(r"(GLIBC|GLIBCXX)_([0-9]+(?:\.[0-9]+){1,2})")

_FILE: Final = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_NEED: Final = struct.Struct("<HHIII")
_AUXILIARY: Final = struct.Struct("<IHHII")
_LOAD, _DYNAMIC_SEGMENT = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_VERNEED, _DT_VERNEEDNUM = 1, 5, 10, 0x6FFFFFFE, 0x6FFFFFFF


@dataclass(frozen=True, slots=True)
class Needs:
    """`libraries` by soname; `versions` are symbol versions such as GLIBC_2.34."""

    machine: str
    libraries: frozenset[str]
    versions: frozenset[str]


def read(data: bytes, what: str) -> Needs:
    """What the library `data`, called `what`, needs. Raises WheelError for one that is no sound ELF library."""
    try:
        return _read(data, what)
    except (struct.error, ValueError):
        refuse(f"{what!r} is a damaged library")


def check(needs: Needs, what: str, target: Target, own: Collection[str]) -> None:
    """Refuse a library that would not load on `target`; `own` are the libraries beside it. Raises WheelError."""
    if needs.machine != target.machine:
        refuse(f"{what!r} is for {needs.machine}, not {target.machine}")
    limits = {"GLIBC": target.release.glibc, "GLIBCXX": target.release.libstdcxx}
    for version in sorted(needs.versions):
        match = _VERSION.fullmatch(version)
        if match is not None and (asked := _numbers(match[2])) > limits[match[1]]:
            has = ".".join(map(str, limits[match[1]]))
            refuse(f"{what!r} needs {match[1]} {'.'.join(map(str, asked))}, {target.os} has {has}")
    for library in sorted(needs.libraries - set(own)):
        known = LIBRARIES.fullmatch(library) or (target.accelerator != "cpu" and CUDA_LIBRARIES.fullmatch(library))
        if not known:
            refuse(f"{what!r} needs {library}, which neither the wheel nor {target.os} brings")


def _read(data: bytes, what: str) -> Needs:
    head = _FILE.unpack_from(data)
    magic, bits, order = head[:3]
    if magic != b"\x7fELF" or (bits, order) != (2, 1):
        refuse(f"{what!r} is no 64-bit little-endian ELF library")
    machine, segments_at, segment_size, segment_count = head[5], head[8], head[12], head[13]
    if segment_size != _SEGMENT.size:
        refuse(f"{what!r} is a damaged library")
    segments = [_SEGMENT.unpack_from(data, segments_at + number * segment_size) for number in range(segment_count)]
    loads = [(at, offset, size) for kind, _, offset, at, _, size, _, _ in segments if kind == _LOAD]
    values: dict[int, list[int]] = {}
    for kind, _, offset, _, _, size, _, _ in segments:
        if kind == _DYNAMIC_SEGMENT:
            for place in range(offset, offset + min(size, MAX_RECORDS * _DYNAMIC.size), _DYNAMIC.size):
                tag, value = _DYNAMIC.unpack_from(data, place)
                if not tag:
                    break
                values.setdefault(tag, []).append(value)
    if _DT_STRTAB not in values:
        refuse(f"{what!r} is a damaged library")
    start = _offset(values[_DT_STRTAB][0], loads, what)
    strings = data[start : start + values.get(_DT_STRSZ, [0])[0]]
    versions: set[str] = set()
    if _DT_VERNEED in values:
        count = min(values.get(_DT_VERNEEDNUM, [0])[0], MAX_RECORDS)
        versions.update(_versions(data, _offset(values[_DT_VERNEED][0], loads, what), count, strings))
    libraries = frozenset(_string(strings, at) for at in values.get(_DT_NEEDED, [])[:MAX_RECORDS])
    return Needs(MACHINES.get(machine, f"machine {machine}"), libraries, frozenset(versions))


def _versions(data: bytes, at: int, count: int, strings: bytes) -> Iterable[str]:
    for _ in range(count):
        _, auxiliaries, _, first, following = _NEED.unpack_from(data, at)
        place = at + first
        for _ in range(auxiliaries):
            _, _, _, name, step = _AUXILIARY.unpack_from(data, place)
            yield _string(strings, name)
            place += step
        at += following


def _offset(address: int, loads: list[tuple[int, int, int]], what: str) -> int:
    """Where in the file the byte lies that is loaded to `address`."""
    found = next((offset - at for at, offset, size in loads if at <= address < at + size), None)
    if found is None:
        refuse(f"{what!r} is a damaged library")
    return address + found


def _string(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode("ascii")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
