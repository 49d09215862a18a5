"""What a projector's header says of it, before libmtmd reads a byte of its weights. Pure."""

from dataclasses import dataclass
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky_bundles.gguf import GgufInfo

MAX_HELD: Final = 256 << 20
"""Bytes of the pieces of images that an engine keeps at most."""
MAX_SIDE: Final = 1 << 12
"""Pixels of the side of a projector's pictures."""
_FLOAT: Final = 4
_KEYS: Final = {
    "image_size": MAX_SIDE,
    "patch_size": MAX_SIDE,
    "embedding_length": 1 << 16,
    "feed_forward_length": 1 << 18,
    "attention.head_count": 1 << 10,
}
"""Sizes that must be there, and what each is at most."""


@dataclass(frozen=True, slots=True)
class Sight:
    """``side`` of its pictures in pixels; ``need`` is the memory it takes, in bytes, with the images that are kept."""

    side: int
    need: int


def sight(header: GgufInfo) -> Sight:
    """What the projector with this ``header`` is. Raises ``not_supported`` for one that reads no images."""
    if header.architecture != "clip" or header.metadata.get("clip.has_vision_encoder") is not True:
        raise EngineError(ErrorKind.NOT_SUPPORTED, "the file given as the projector makes nothing of images")
    sizes: dict[str, int] = {}
    for name, most in _KEYS.items():
        value = header.metadata.get(f"clip.vision.{name}")
        if not isinstance(value, int) or not 0 < value <= most:
            raise EngineError(ErrorKind.NOT_SUPPORTED, f"the projector's {name} is not from 1 to {most}")
        sizes[name] = value
    patches = (sizes["image_size"] // sizes["patch_size"]) ** 2
    scores = patches * patches * sizes["attention.head_count"]
    widest = patches * (2 * sizes["feed_forward_length"] + 4 * sizes["embedding_length"])
    return Sight(sizes["image_size"], header.size - header.data_offset + _FLOAT * (scores + widest) + MAX_HELD)
