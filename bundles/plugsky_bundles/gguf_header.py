"""A bounded cursor over the head of a GGUF file: the only place that turns its bytes into numbers and strings.

Guarantees, whatever the bytes are:
* no read goes past the file's size or past `MAX_HEADER`; a length is checked against what is left before it is used;
* a file that gives fewer bytes than it is asked for is asked again only for what is needed;
* at most one `WINDOW` of the file is held at a time, and at most `MAX_KEPT` bytes of strings are handed out;
* `MAX_ELEMENTS` bounds the elements of all arrays together, so that time is bounded by the header's size.
Little-endian only: the hosts are, and a file of the other kind is refused by name instead of being misread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from plugsky_bundles.errors import GgufError
from plugsky_bundles.gguf_types import SCALARS, ValueType

MAX_HEADER: Final = 64 * 1024 * 1024
MAX_ELEMENTS: Final = 4 * 1024 * 1024
MAX_STRING: Final = 1024 * 1024
MAX_KEPT: Final = 8 * 1024 * 1024
WINDOW: Final = 1024 * 1024

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """An array value by its element type and count; its elements are walked, checked and not kept."""

    element: ValueType
    count: int


@dataclass(frozen=True, slots=True)
class TooLongToKeep:
    """A string above `MAX_STRING`, or beyond `MAX_KEPT` together: legal and of no use to us; only its length stays."""

    length: int


Value = Scalar | ArrayShape | TooLongToKeep


def refuse(why: str) -> GgufError:
    """The one way this format is refused; `why` says which rule was broken and where."""
    return GgufError(
        "The model file is not a well-formed GGUF", why, "Get the file again from its publisher and check its SHA-256"
    )


class Cursor:
    """Reads forward through the header of `file`, which must be at its beginning; `size` is the whole file's length."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._limit = min(size, MAX_HEADER)
        self._window = b""
        self._base = 0
        self._at = 0
        self._elements = 0
        self._kept = 0

    @property
    def offset(self) -> int:
        """Bytes from the start of the file."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """Bytes that the header may still have."""
        return self._limit - self.offset

    def bytes(self, count: int, what: str) -> bytes:
        """Exactly `count` bytes; `count` must have been bounded by the caller."""
        end = self._at + count
        if end > len(self._window):
            self._fill(count, what)
            end = self._at + count
        taken = self._window[self._at : end]
        self._at = end
        return taken

    def skip(self, count: int, what: str) -> None:
        """Go `count` bytes on without keeping them."""
        if count > self.left:
            raise self._short(what)
        while count:
            if self._at == len(self._window):
                self._fill(1, what)
            step = min(count, len(self._window) - self._at)
            self._at += step
            count -= step

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.bytes(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.bytes(8, what))[0])

    def name(self, limit: int, what: str) -> str:
        """A key or a tensor's name: 1 to `limit` bytes of UTF-8 without control characters."""
        length = self.u64(what)
        if not 1 <= length <= limit:
            raise refuse(f"{what} at byte {self.offset} has {length} bytes, allowed are 1 to {limit}")
        text = _text(self.bytes(length, what), what)
        if not text.isprintable():
            raise refuse(f"{what} {text!r} holds characters that do not print")
        return text

    def value(self, kind: ValueType, key: str) -> Value:
        """The metadata value of `key`, whose type tag was just read."""
        if kind is ValueType.ARRAY:
            return self._array(key)
        if kind is ValueType.STRING:
            length = self.u64(key)
            if length > min(MAX_STRING, MAX_KEPT - self._kept):
                self.skip(length, key)
                return TooLongToKeep(length)
            self._kept += length
            return _text(self.bytes(length, key), f"the value of {key!r}")
        layout = SCALARS[kind]
        number: int | float = layout.unpack(self.bytes(layout.size, key))[0]
        if kind is ValueType.BOOL:
            if number not in (0, 1):
                raise refuse(f"the boolean {key!r} is {number}")
            return bool(number)
        return number

    def kind(self, key: str) -> ValueType:
        tag = self.u32(key)
        try:
            return ValueType(tag)
        except ValueError:
            raise refuse(f"the value of {key!r} has the unknown type {tag}") from None

    def _array(self, key: str) -> ArrayShape:
        element = self.kind(key)
        count = self.u64(key)
        if element is ValueType.ARRAY:
            raise refuse(f"{key!r} is an array of arrays, which no reader supports")
        self._elements += min(count, MAX_ELEMENTS + 1)
        if self._elements > MAX_ELEMENTS:
            raise refuse(f"{key!r} with its {count} elements exceeds the {MAX_ELEMENTS} that all arrays may have")
        if element is ValueType.STRING:
            self._skip_strings(count, key)
        else:
            self.skip(count * SCALARS[element].size, key)
        return ArrayShape(element, count)

    def _skip_strings(self, count: int, what: str) -> None:
        """Go `count` strings on. A vocabulary has 100,000: those that lie whole in the window cost no call of ours."""
        while count:
            window, at = self._window, self._at
            while count and (start := at + _U64.size) <= len(window):
                end = start + _U64.unpack_from(window, at)[0]
                if end > len(window):
                    break
                at = end
                count -= 1
            self._at = at
            if count:
                self.skip(self.u64(what), what)
                count -= 1

    def _fill(self, count: int, what: str) -> None:
        """Slide the window so that `count` bytes follow the current place."""
        if count > self.left:
            raise self._short(what)
        kept = self._window[self._at :]
        self._base += self._at
        self._at = 0
        wanted = min(max(WINDOW, count), self._limit - self._base) - len(kept)
        parts, missing = [kept], count - len(kept)
        while missing > 0:
            part = self._file.read(min(wanted, WINDOW))
            if not part:
                raise refuse(
                    f"the file ends at byte {self._base + sum(map(len, parts))}, before its {self._size} bytes"
                )
            parts.append(part)
            wanted -= len(part)
            missing -= len(part)
        self._window = b"".join(parts)

    def _short(self, what: str) -> GgufError:
        if self._limit < self._size:
            return refuse(f"{what} at byte {self.offset} goes past the {MAX_HEADER} bytes that a header may have")
        return refuse(f"{what} at byte {self.offset} goes past the end of the file ({self._size} bytes)")


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(f"{what} is not UTF-8 ({error.reason} at byte {error.start})") from None
