"""Where the images of a chat stand while its messages go through a template: a text that nobody can foresee.

A template arranges texts, and which tokens an image needs around it is the projector's to say. So each image goes
through the template as a random text of its own, and the rendered prompt is cut where these texts have come to stand.
"""

import re
import secrets
from typing import Final

from plugsky.engine.errors import bad_request
from plugsky.engine.tokens.markers import Part


class StandIns:
    """The stand-ins of one prompt's ``count`` images."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._name = f"image {secrets.token_hex(16)}"

    def text(self, image: int) -> str:
        """What stands for ``image``. Raises ``bad_request`` for one that the request does not bring."""
        if not 0 <= image < self._count:
            raise bad_request(f"a message holds image {image}; the request brings {self._count}", "messages")
        return f"{self._name} {image}."

    def cut(self, parts: list[Part]) -> list[Part | int]:
        """``parts`` with the number of each image in its place.

        Raises ``bad_request`` unless each stands in one place.
        """
        if not self._count:
            return [*parts]
        pattern = re.compile(f"{self._name} ([0-9]+)\\.")
        pieces: list[Part | int] = []
        for part in parts:
            done = 0
            for found in pattern.finditer(part.text):
                pieces += [_between(part, done, found.start()), int(found[1])]
                done = found.end()
            pieces.append(_between(part, done, len(part.text)))
        if sorted(piece for piece in pieces if isinstance(piece, int)) != list(range(self._count)):
            raise bad_request(
                "each image must stand in one message, once, and the chat template must keep it", "images"
            )
        return [piece for piece in pieces if isinstance(piece, int) or piece.text]


def _between(part: Part, start: int, end: int) -> Part:
    return Part(part.text[start:end], tuple(place - start for place in part.forged if start <= place < end))


NONE: Final = StandIns(0)
"""Of a prompt without images."""
