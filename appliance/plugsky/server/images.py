"""The images of one request, in their order: bytes that came in base64, never an address that would be fetched."""

import base64
import binascii
from typing import Final

from plugsky.core import frames
from plugsky.server.failures import bad

MAX_IMAGES: Final = 64


class Base64Images:
    """Collects images as a body is read. ``files`` are their bytes."""

    def __init__(self) -> None:
        self.files: list[bytes] = []

    def add(self, place: str, data_place: str, data: str) -> frames.ImagePart:
        """The part of a message that stands for this image. Raises ``bad_request``."""
        if len(self.files) == MAX_IMAGES:
            raise bad(place, f"a request holds at most {MAX_IMAGES} images")
        try:
            self.files.append(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise bad(data_place, "it is not valid base64") from None
        return frames.ImagePart(len(self.files) - 1)
