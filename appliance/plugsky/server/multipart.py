"""Reads a ``multipart/form-data`` body (RFC 7578) with one file in it, piece by piece: the file goes to its sink as it
comes, the other fields stay in memory and are bounded.
"""

from collections.abc import Callable, Iterable
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from plugsky.core.errors import ErrorKind, PlugskyError

MAX_PARTS: Final = 16
MAX_FIELD: Final = 1024
OVERHEAD: Final = 64 << 10
"""Bytes that a body may have beside its file."""


class Form:
    """What was read so far: ``fields`` by name, and the name that the client has for the file, None before it came."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], sink: Callable[[bytes], None]) -> None:
        kind, options = parse_options_header(dict(headers).get(b"content-type"))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
            raise _bad("it is sent as multipart/form-data with a boundary")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.whole = False
        self._sink = sink
        self._parts = 0
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header_name,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Read the next piece. Raises BAD_REQUEST for what is no such body, and whatever the sink raises."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _bad("its body is no multipart/form-data") from None

    def _on_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _bad(f"its body has more than {MAX_PARTS} parts")
        self._headers = {}
        self._value = bytearray()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._header[0], data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._header[1], data[start:end])

    def _on_header(self) -> None:
        if len(self._headers) >= MAX_PARTS:
            raise _bad(f"a part of it has more than {MAX_PARTS} headers")
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise _bad("a part of it has no name")
        self._name = _text(options[b"name"])
        self._is_file = b"filename" in options
        if self._is_file:
            if self._name != "file" or self.filename is not None:
                raise _bad("it has one file, in the field `file`")
            self.filename = _text(options[b"filename"])
        elif self._name in self.fields:
            raise _bad(f"the field {self._name[:80]!a} is there twice")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._sink(data[start:end])
        else:
            self._grow(self._value, data[start:end])

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = _text(bytes(self._value))

    def _on_end(self) -> None:
        self.whole = True

    @staticmethod
    def _grow(buffer: bytearray, data: bytes) -> None:
        if len(buffer) + len(data) > MAX_FIELD:
            raise _bad(f"a field or a header of it has more than {MAX_FIELD} bytes")
        buffer += data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _bad("a field of it is not UTF-8") from None


def _bad(why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, "The file cannot be read", why=why, param="file")
