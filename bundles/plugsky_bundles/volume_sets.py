"""Which volume of a split bundle holds what: a pure function of the verified metadata and the size of the volumes.

* Every volume has the whole of `metadata/`, the early blobs and its label, `volume.json`; the first also the evidence.
* The payload, in its order (`media_order`), fills one volume after the other: a blob goes on the volume that the blob
  before it went on if it still fits there, else on the next. Nothing goes back.
* A volume holds at most its size. There a file counts rounded up to 128 KiB, and each directory counts 128 KiB: the
  largest cluster that exFAT has by default, so a volume fits media of that many free bytes whatever their format.

So the exact set of each volume is known before any of them is read, and a label need not be believed: a wrong one
leads to a set that is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from plugsky_bundles.errors import VolumeMixed, VolumeTooSmall
from plugsky_bundles.format import is_sha256
from plugsky_bundles.media_order import Contents, Part
from plugsky_bundles.strict_json import encode, parse_object

LABEL: Final = "volume.json"
SCHEMA: Final = "plugsky.volume/1"
MAX_LABEL: Final = 4096
MAX_VOLUMES: Final = 999
MAX_SIZE: Final = 1 << 50
CLUSTER: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Label:
    """What a volume says of itself: unsigned, and checked against what the verified metadata gives."""

    bundle_id: str
    number: int
    of: int
    size: int

    def to_json(self) -> bytes:
        """The bytes of `volume.json`."""
        return encode(
            {
                "schema": SCHEMA,
                "bundle_id": self.bundle_id,
                "volume": self.number,
                "of": self.of,
                "size": self.size,
            }
        )

    @classmethod
    def from_json(cls, data: bytes, what: str) -> Label:
        """Read a label. Raises MalformedMetadata or VolumeMixed."""
        raw: dict[str, Any] = parse_object(data, what, limit=MAX_LABEL)
        numbers = (raw.get("volume"), raw.get("of"), raw.get("size"))
        label = cls(str(raw.get("bundle_id")), *(n if type(n) is int else 0 for n in numbers))
        if (
            label.to_json() != data
            or not is_sha256(label.bundle_id)
            or not 1 <= label.number <= label.of <= MAX_VOLUMES
            or not 0 < label.size <= MAX_SIZE
        ):
            raise VolumeMixed(f"{what} is not the label of a volume", "it is not written as a label is", _SPLIT)
        return label


def assign(contents: Contents, size: int) -> tuple[tuple[Part, ...], ...]:
    """The parts of each volume, labels left out. Raises VolumeTooSmall (it says which size would do)."""
    common = list(contents.in_every_volume)
    volumes, blank = [_Volume([*common, *contents.evidence_parts])], _Volume(common)
    largest = max((blank.cost(part) for part in contents.payload_parts), default=0)
    smallest = max(volumes[0].used, blank.used + largest)
    if smallest > size:
        raise VolumeTooSmall(
            f"Volumes of {size} bytes are too small",
            f"each must hold the metadata and at least one whole chunk: {smallest} bytes",
            f"Give at least --size {smallest}",
        )
    for part in contents.payload_parts:
        if volumes[-1].used + volumes[-1].cost(part) > size:
            volumes.append(_Volume(common))
        volumes[-1].add(part)
    if len(volumes) > MAX_VOLUMES:
        raise VolumeTooSmall(
            f"Volumes of {size} bytes are too small", f"more than {MAX_VOLUMES} would be needed", "Give a larger --size"
        )
    return tuple(tuple(volume.parts) for volume in volumes)


def parse_size(text: str) -> int | None:
    """Bytes of a size as people write it: `25G`, `4.7G`, `700M` (decimal, as on labels), `64MiB`; None for others."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    base = 1024 if match["binary"] else 1000
    whole, _, fraction = match["number"].partition(".")
    factor: int = base ** (" KMGT".index(match["unit"].upper()) if match["unit"] else 0)
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


class _Volume:
    """A volume that is being filled, by the bytes that it takes on media."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts: list[Part] = []
        self._directories: set[str] = set()
        self.used = 2 * CLUSTER  # its own directory, and the label
        for part in parts:
            self.add(part)

    def cost(self, part: Part) -> int:
        return _rounded(part.length) + CLUSTER * len(_directories(part.name) - self._directories)

    def add(self, part: Part) -> None:
        self.used += self.cost(part)
        self._directories |= _directories(part.name)
        self.parts.append(part)


def _directories(name: str) -> set[str]:
    return {name[:cut] for cut, char in enumerate(name) if char == "/"}


def _rounded(length: int) -> int:
    return -(-length // CLUSTER) * CLUSTER


_SPLIT: Final = "Split the bundle again: plugsky bundle split"
_SIZE: Final = re.compile(
    r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?P<unit>[KMGTkmgt]?)(?P<binary>i?)[Bb]?", re.ASCII
)
