"""How frames are cut on the wire: a u32 length, big-endian, then that many bytes of MessagePack, at most 16 MiB.

The bytes are a map with the frame's name under ``t``; :mod:`plugsky.core.frames` holds the vocabularies. Does no IO.
"""

import struct
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

MAX_FRAME: Final = 16 << 20
"""Bytes of one frame, without its length."""
_LENGTH: Final = struct.Struct(">I")

FrameT = TypeVar("FrameT")


class FrameError(ValueError):
    """Bytes that are no frame: too long, malformed, or of an unknown name."""


_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(frame: msgspec.Struct) -> bytes:
    """``frame`` as bytes for the wire. Raises :class:`FrameError` above :data:`MAX_FRAME`."""
    body = _ENCODER.encode(frame)
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


class FrameBuffer(Generic[FrameT]):
    """Cuts a byte stream into frames of one side's vocabulary. Does no IO: feed it bytes, iterate over frames."""

    def __init__(self, decoder: "msgspec.msgpack.Decoder[FrameT]") -> None:
        self._decoder = decoder
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[FrameT]:
        """The frames that ``data`` completes, in order. Raises :class:`FrameError` at the first that is none."""
        self._pending += data
        start = 0
        try:
            while len(self._pending) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._pending, start)
                if length > MAX_FRAME:
                    raise FrameError(f"a frame announces {length} bytes; the limit is {MAX_FRAME}")
                end = start + _LENGTH.size + length
                if len(self._pending) < end:
                    break
                body = bytes(self._pending[start + _LENGTH.size : end])
                start = end
                try:
                    frame = self._decoder.decode(body)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise FrameError(f"a frame of {length} bytes cannot be read: {type(error).__name__}") from error
                yield frame
        finally:
            del self._pending[:start]
