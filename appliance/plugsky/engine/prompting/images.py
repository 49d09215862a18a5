"""The images that prompts were prepared with, kept for the submits that name them by their virtual tokens.

Guarantees: (1) an image is found by the tenant it was prepared for only; (2) the pieces in memory, those of requests
under way included, are at most :data:`MAX_HELD` bytes: those used longest ago are forgotten first, and with all in use
there is a named error; (3) a submit holds its pieces until it ends, whatever is forgotten meanwhile.

An image is named by the bytes it was sent as, so the same file is decoded once while it is kept.
"""

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError, bad_request
from plugsky.engine.headers.sight import MAX_HELD
from plugsky.engine.llama.native import Logits
from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.vision.pictures import Picture, Pictures


class Piece(Protocol):
    """A piece of a picture, ready to be computed; see :class:`~plugsky.engine.llama.images.ImagePiece`."""

    @property
    def count(self) -> int:
        """Its tokens."""

    def compute(self, chunk: Chunk) -> list[Logits]: ...


class Eye(Protocol):
    """What makes pieces of pictures, each ``image_bytes`` at most; :class:`~plugsky.engine.llama.images.Projector`."""

    @property
    def image_bytes(self) -> int: ...

    def pieces(self, picture: Picture) -> "Sequence[tuple[int, ...] | Piece]": ...


@dataclass(frozen=True, slots=True)
class _Image:
    tenant: str
    tokens: tuple[int, ...]
    pieces: dict[tuple[int, ...], Piece]


class Images:
    """The images of one engine. :meth:`tokens` is called from one thread, :meth:`pieces` from any."""

    def __init__(self, eye: Eye, pictures: Pictures, most: int = MAX_HELD) -> None:
        self._eye = eye
        self._pictures = pictures
        self._most = most // eye.image_bytes
        self._kept: OrderedDict[bytes, _Image] = OrderedDict()
        self._names: dict[tuple[int, ...], bytes] = {}
        self._alive: weakref.WeakSet[Piece] = weakref.WeakSet()
        self._lock = threading.Lock()

    def tokens(self, tenant: str, data: bytes) -> tuple[int, ...]:
        """What stands in a prompt for a PNG or JPEG. Raises as :meth:`.Pictures.decode`, or ``overloaded``."""
        owner = hashlib.sha256(tenant.encode(errors="surrogatepass")).digest()
        name = hashlib.sha256(owner + data).digest()
        with self._lock:
            known = self._kept.get(name)
            if known is not None:
                self._kept.move_to_end(name)
                return known.tokens
        tokens: list[int] = []
        pieces: dict[tuple[int, ...], Piece] = {}
        for part in self._eye.pieces(self._pictures.decode(data)):
            if isinstance(part, tuple):
                tokens += part
                continue
            if part.count < virtual.SHORTEST:
                raise bad_request("an image is too small for this model", "images")
            run = virtual.run(name + len(pieces).to_bytes(4), part.count)
            pieces[run] = part
            tokens += run
        return self._keep(name, _Image(tenant, tuple(tokens), pieces))

    def pieces(self, tenant: str, tokens: Sequence[int]) -> dict[int, Piece]:
        """The pieces among ``tokens``, by where each begins.

        Raises ``bad_request`` for numbers that are no image's, ``conflict`` for an image that is not kept any more.
        """
        found: dict[int, Piece] = {}
        try:
            runs = list(virtual.images(tokens))
        except ValueError as error:
            raise bad_request(f"the tokens hold no whole image: {error}", "tokens") from None
        with self._lock:
            for start, run in runs:
                name = self._names.get(run)
                image = None if name is None else self._kept[name]
                if name is None or image is None or image.tenant != tenant:
                    raise EngineError(
                        ErrorKind.CONFLICT,
                        "an image of this prompt is not kept here any more",
                        next="prepare the prompt again",
                        param="tokens",
                    )
                self._kept.move_to_end(name)
                found[start] = image.pieces[run]
        return found

    def close(self) -> None:
        """Forget all images and end the decoder."""
        with self._lock:
            self._kept.clear()
            self._names.clear()
        self._pictures.close()

    def _keep(self, name: bytes, image: _Image) -> tuple[int, ...]:
        with self._lock:
            while self._kept and len(self._alive) + len(image.pieces) > self._most:
                _, oldest = self._kept.popitem(last=False)
                for run in oldest.pieces:
                    del self._names[run]
                del oldest
            if len(self._alive) + len(image.pieces) > self._most:
                raise EngineError(
                    ErrorKind.OVERLOADED,
                    "the memory for images is taken by other requests",
                    retry_after=5.0,
                    param="images",
                )
            self._kept[name] = image
            for run, piece in image.pieces.items():
                self._names[run] = name
                self._alive.add(piece)
        return image.tokens
