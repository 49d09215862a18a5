"""The headers of a bundle's tar stream: one fixed form of POSIX ustar (IEEE 1003.1, pax, "ustar Interchange Format").

`header` is the one way to write a header, `parse` accepts exactly what it writes: a header is read by writing it again
from its name and size and comparing all 512 bytes. So there is no field left in which two readers could differ.
"""

from __future__ import annotations

import re
from typing import Final

from plugsky_bundles.errors import FileTooLarge, MalformedStream

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
MTIME: Final = 315_619_200
"""1980-01-02T00:00:00Z: one day after the first that FAT can hold, so that it can in every time zone."""
MAX_NAME: Final = 100
MAX_PREFIX: Final = 155
MAX_SIZE: Final = (1 << 33) - 1

_OCTAL = re.compile(rb"[0-7]{11}\0")
_NAME = re.compile(rb"[A-Za-z0-9._+~/-]*\0*")
_KINDS: Final = {
    b"\0": "a header of an older tar",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a directory",
    b"6": "a fifo",
    b"7": "a contiguous file",
    b"g": "a pax header for all files",
    b"x": "a pax header",
    b"K": "a GNU long link",
    b"L": "a GNU long name",
    b"S": "a GNU sparse file",
}


def header(name: str, size: int) -> bytes:
    """The header of a regular file. Raises FileTooLarge for what ustar cannot hold."""
    prefix, last = _split(name)
    if not 0 <= size <= MAX_SIZE:
        raise FileTooLarge(
            f"{name} cannot go into a tar stream", f"{size} bytes are more than ustar holds", "Carry the directory"
        )
    fields = (
        last.encode("ascii").ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"%011o\0" % MTIME,
        b"        ",
        b"0",
        bytes(100),
        b"ustar\x0000",
        bytes(32),
        bytes(32),
        b"0000000\0",
        b"0000000\0",
        prefix.encode("ascii").ljust(155, b"\0"),
        bytes(12),
    )
    block = b"".join(fields)
    return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])


def padding(size: int) -> int:
    """How many zeros follow `size` bytes."""
    return -size % BLOCK


def parse(block: bytes) -> tuple[str, int]:
    """Name and size of a header. Raises MalformedStream for all that `header` does not write."""
    last, prefix, size = block[:100], block[345:500], block[124:136]
    if block[156:157] in _KINDS:
        raise _malformed(f"it holds {_KINDS[block[156:157]]}, and a bundle has regular files only")
    if block[257:265] != b"ustar\x0000":
        raise _malformed("a header is not of the format ustar")
    if not _OCTAL.fullmatch(size):
        raise _malformed("the size of a file is not 11 octal digits")
    if not (_NAME.fullmatch(last) and _NAME.fullmatch(prefix)):
        raise _malformed("a name has characters that no name in a bundle has")
    name = "/".join(part.rstrip(b"\0").decode("ascii") for part in (prefix, last) if part[:1] != b"\0")
    try:
        same = header(name, int(size[:11], 8)) == block
    except FileTooLarge:
        same = False
    if not same:
        raise _malformed(f"the header of {name!r} is not written in the one way that is allowed")
    return name, int(size[:11], 8)


def _split(name: str) -> tuple[str, str]:
    """Prefix and name: as few directories in the prefix as will do."""
    if len(name) <= MAX_NAME:
        return "", name
    cut = name.find("/", len(name) - MAX_NAME - 1)
    if cut < 1 or cut > MAX_PREFIX or cut == len(name) - 1:
        raise FileTooLarge(
            f"{name} cannot go into a tar stream", "its name is longer than ustar holds", "Carry the directory"
        )
    return name[:cut], name[cut + 1 :]


def _malformed(why: str) -> MalformedStream:
    return MalformedStream("This is not a bundle's tar stream", why, "Have it written again: plugsky bundle stream")
