"""The child process that turns the bytes of a PNG or JPEG into pixels, apart from the engine.

The decoder is stb_image, C code that travels in libmtmd: whatever it does with bytes of anybody's making, it does in a
process that holds nothing, is bounded in address space and CPU time per picture, and can be killed.
:mod:`plugsky.engine.vision.pictures` holds the other end. The size is read from the picture's head first, so that one
that would unfold to more than :data:`MAX_PIXELS` is never unfolded.

A question is the bytes of a file; the answer a :class:`Decoded`, whose ``rgb`` has three bytes a pixel, row by row.
"""

import ctypes
import math
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from plugsky.engine import child

MAX_PIXELS: Final = 1 << 24
MAX_SIDE: Final = 1 << 14
"""Pixels of one side."""
MAX_RATIO: Final = 100
"""How often the shorter side may go into the longer."""
DECODE_S: Final = 10.0
"""Seconds one picture may take."""
MAX_MEMORY: Final = 1 << 30
"""Bytes of address space of the child."""
_RGB: Final = 3
_MAGIC: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class Decoded(msgspec.Struct, frozen=True):
    """A picture, or why it is none: ``problem``, and whether it is that it is too large."""

    width: int = 0
    height: int = 0
    rgb: bytes = b""
    problem: str = ""
    is_too_large: bool = False


class Library:
    """stb_image as libmtmd exports it. Raises :class:`OSError` or :class:`AttributeError` where it is not there."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(library_file()))
        whole = ctypes.POINTER(ctypes.c_int)
        self._info = library.stbi_info_from_memory
        self._info.argtypes = [ctypes.c_char_p, ctypes.c_int, whole, whole, whole]
        self._load = library.stbi_load_from_memory
        self._load.argtypes = [*self._info.argtypes, ctypes.c_int]
        self._load.restype = ctypes.c_void_p
        self._free = library.stbi_image_free
        self._free.argtypes = [ctypes.c_void_p]

    def decode(self, data: bytes) -> Decoded:
        """The picture in ``data``."""
        if not data.startswith(_MAGIC):
            return Decoded(problem="it is neither a PNG nor a JPEG")
        width, height, channels = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        size = (ctypes.byref(width), ctypes.byref(height), ctypes.byref(channels))
        if not self._info(data, len(data), *size):
            return Decoded(problem="its head cannot be read")
        refused = refusal(width.value, height.value)
        if refused is not None:
            return refused
        pixels = self._load(data, len(data), *size, _RGB)
        if not pixels:
            return Decoded(problem="it is damaged")
        try:
            rgb = ctypes.string_at(pixels, width.value * height.value * _RGB)
        finally:
            self._free(pixels)
        return Decoded(width.value, height.value, rgb)


def refusal(width: int, height: int) -> Decoded | None:
    """Why a picture of this size is not decoded, if it is not."""
    if width < 1 or height < 1:
        return Decoded(problem="it has no pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        bound = f"at most {MAX_PIXELS} pixels and {MAX_SIDE} a side are read"
        return Decoded(problem=f"it has {width} x {height} pixels; {bound}", is_too_large=True)
    if max(width, height) > MAX_RATIO * min(width, height):
        return Decoded(problem=f"one side is over {MAX_RATIO} times the other")
    return None


def library_file() -> Path:
    """Where libmtmd lies, if it does; llama.cpp's bindings are found, not imported, which starts nothing."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return Path("libmtmd.so")
    return Path(spec.origin).parent / "lib" / "libmtmd.so"


def main() -> int:
    """Serve the pipe until it is closed. 0 at its end."""
    library = Library()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    while (data := child.next_question(sys.stdin.buffer)) is not None:
        limit = math.ceil(time.process_time() + DECODE_S)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        child.reply(msgspec.msgpack.encode(library.decode(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
