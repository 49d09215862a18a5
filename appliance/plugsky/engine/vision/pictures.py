"""The engine's end of the child that decodes pictures: it asks, waits a bounded time, and kills a child that overstays.

Used from one thread. A picture that ends the child costs its request the answer; the next one starts a new child.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from plugsky.core.errors import ErrorKind
from plugsky.engine.child import Child, ChildDiedError
from plugsky.engine.errors import EngineError, bad_request
from plugsky.engine.vision.pixels import DECODE_S, Decoded

MAX_IMAGES: Final = 8
"""Images in one prompt."""
MAX_BYTES: Final = 8 << 20
"""Bytes of one image as it is sent."""
_GRACE_S: Final = 20.0
"""Seconds beyond a decoder's own for a child to start and for pipes."""
_PARAM: Final = "images"


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels: three bytes each, red, green and blue, row by row."""

    width: int
    height: int
    rgb: bytes = field(repr=False)


class Pictures:
    """Decodes PNG and JPEG in one killable child."""

    def __init__(self, module: str = "plugsky.engine.vision.pixels") -> None:
        self._module = module
        self._child: Child | None = None

    def decode(self, data: bytes) -> Picture:
        """The picture in ``data``. Raises ``bad_request``, ``too_large`` or ``timeout``."""
        if not data:
            raise bad_request("an image is empty", _PARAM)
        if len(data) > MAX_BYTES:
            raise _too_large(f"an image has {len(data)} bytes; at most {MAX_BYTES} are read")
        child = self._started()
        try:
            found = msgspec.msgpack.decode(child.ask(data, DECODE_S + _GRACE_S), type=Decoded)
        except TimeoutError:
            raise EngineError(
                ErrorKind.TIMEOUT, f"an image took longer than {DECODE_S:g} seconds to decode", param=_PARAM
            ) from None
        except ChildDiedError:
            raise bad_request("an image cannot be decoded: it ended the decoder's process", _PARAM) from None
        if found.is_too_large:
            raise _too_large(f"an image is too large: {found.problem}")
        if found.problem:
            raise bad_request(f"an image cannot be read: {found.problem}", _PARAM)
        return Picture(found.width, found.height, found.rgb)

    def close(self) -> None:
        """Kill the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _started(self) -> Child:
        if self._child is None or not self._child.lives:
            self.close()
            self._child = Child(self._module)
        return self._child


def _too_large(what: str) -> EngineError:
    return EngineError(ErrorKind.TOO_LARGE, what, param=_PARAM)
