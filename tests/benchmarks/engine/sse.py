"""Reads what an HTTP/1.1 server streams: chunked bodies (RFC 9112) and server-sent events (WHATWG HTML). No IO.

Only what llama.cpp's and Python's servers write: no trailers, no `id`, no `retry`. Anything else is a ValueError.
"""

from collections.abc import Iterator


class Chunked:
    """Takes the chunked coding off. ``over`` once the last chunk came."""

    def __init__(self) -> None:
        self.over = False
        self._pending = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body."""
        self._pending += data
        body = bytearray()
        while not self.over:
            head, found, _ = self._pending.partition(b"\r\n")
            if not found:
                break
            size = int(head.split(b";")[0], 16)
            end = len(head) + 2 + size
            if len(self._pending) < end + 2:
                break
            if self._pending[end : end + 2] != b"\r\n":
                raise ValueError("a chunk does not end where it says")
            body += self._pending[len(head) + 2 : end]
            del self._pending[: end + 2]
            self.over = size == 0
        return bytes(body)


class Events:
    """Cuts a body into the data of its events."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[str]:
        """The data of each event that ``data`` completes."""
        self._pending += data
        *lines, rest = self._pending.split(b"\n")
        self._pending = rest
        for raw in lines:
            line = raw.removesuffix(b"\r").decode()
            if not line:
                if self._data:
                    yield "\n".join(self._data)
                self._data = []
            elif line.startswith("data:"):
                self._data.append(line.removeprefix("data:").removeprefix(" "))
            elif not line.startswith((":", "event:")):
                raise ValueError("a line of the stream is no field of an event")
