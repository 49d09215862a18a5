"""A bundle split over several sticks or discs, read as one: the next volume is found, or asked for.

A volume is a directory with a label (`volume_sets`). Opening one reads its label and believes nothing of it. Once the
metadata is verified, what each volume must hold is computed from it; the volume at hand is compared with that, and
each further one when it is opened: the same metadata byte for byte, the same size and number of volumes, exactly its
own parts. A volume is looked for where the one before it was (somebody swapped the disc), then beside it, then on media
mounted beside that; then `ask` is called until somebody brings it or gives up.

What precedes the payload is held in memory once its volume was seen, so that nobody must bring the first one again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final

from plugsky_bundles.errors import (
    BundleError,
    VerificationError,
    VolumeDuplicated,
    VolumeForeign,
    VolumeMissing,
    VolumeMixed,
    VolumeStale,
)
from plugsky_bundles.format import MAX_TIMESTAMP, METADATA
from plugsky_bundles.media_directory import Directory, check_names, open_bundle
from plugsky_bundles.media_order import MAX_EARLY, Contents, Part
from plugsky_bundles.metadata import CHANNEL
from plugsky_bundles.strict_json import parse_object
from plugsky_bundles.volume_sets import LABEL, MAX_LABEL, Label, assign

TIMESTAMP: Final = f"{METADATA}/timestamp.json"
MAX_LOOKED_AT: Final = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """A volume that is needed next, `number` of `of`. `looked`: where it is not; `problem`: why one there is not it."""

    bundle_id: str
    number: int
    of: int
    looked: tuple[Path, ...]
    problem: str = ""


Ask = Callable[[Wanted], Path | None]
"""Has somebody bring a volume and say where it is; None when nobody can."""


def nobody(_wanted: Wanted) -> None:
    """The `Ask` where nobody can be asked."""


def label_of(volume: Directory) -> Label:
    """The label of a directory that has one. Raises VolumeMixed, MalformedMetadata or DigestMismatch."""
    return Label.from_json(volume.read(LABEL, limit=MAX_LABEL), f"{volume.path / LABEL}")


def open_volumes(volume: Directory, ask: Ask = nobody) -> Volumes:
    """The split bundle that this is a volume of."""
    return Volumes(volume, label_of(volume), ask)


class Volumes:
    """All volumes of one bundle; at any time one of them is the volume at hand."""

    def __init__(self, volume: Directory, label: Label, ask: Ask) -> None:
        self._volume, self.label, self._ask = volume, label, ask
        self._contents: Contents | None = None
        self._where: dict[str, int] = {}
        self._held: dict[str, bytes] = {}
        self.sets: tuple[tuple[Part, ...], ...] = ()
        self.taken: dict[int, Path] = {}
        """Where each volume was that was looked into, by number."""

    @property
    def path(self) -> Path:
        """Where the volume at hand is."""
        return self._volume.path

    @property
    def files(self) -> Mapping[str, int]:
        """What lies on the volume at hand."""
        return self._volume.files

    @property
    def sealed(self) -> bool:
        """Whether the volume at hand has a timestamp."""
        return self._volume.sealed

    def open(self, name: str) -> BufferedReader:
        """Open one file, on whichever volume it is. Raises what `bring` raises beside what a directory does."""
        if name in self._held:
            return BufferedReader(BytesIO(self._held[name]))
        if name not in self._volume.files and name in self._where:
            self.bring(self._where[name])
        return self._volume.open(name)

    def read(self, name: str, *, limit: int) -> bytes:
        """The whole of a small file; one longer than `limit` bytes is a DigestMismatch."""
        if name in self._held and len(self._held[name]) <= limit:
            return self._held[name]
        if name not in self._volume.files and name in self._where:
            self.bring(self._where[name])
        return self._volume.read(name, limit=limit)

    def check_set(self, contents: Contents) -> str:
        """Compare the volume at hand with what the verified metadata says that it holds; see `sets`."""
        if self.label.bundle_id != contents.bundle_id:
            raise VolumeMixed(
                f"{self.path} is not what its label says",
                f"it is labelled for bundle {self.label.bundle_id}, its metadata is that of {contents.bundle_id}",
                _RESPLIT,
            )
        self.sets = assign(contents, self.label.size)
        if len(self.sets) != self.label.of:
            raise VolumeMixed(
                f"{self.path} is not what its label says",
                f"in volumes of {self.label.size} bytes this bundle has {len(self.sets)}, not {self.label.of}",
                _RESPLIT,
            )
        self._contents = contents
        for number, parts in enumerate(self.sets, start=1):
            for part in parts:
                self._where.setdefault(part.name, number)
        self._take(self._volume, self.label)
        return f"volume {self.label.number} of {self.label.of} holds exactly its part of the listed files"

    def check_end(self) -> None:
        """Nothing follows: each volume was listed when it was opened."""

    def here(self) -> list[int]:
        """The numbers of the volumes that are at hand or beside, without asking anyone."""
        at_hand = self.label.number
        others = [n for n in range(1, self.label.of + 1) if n != at_hand and self._find(n)[0] is not None]
        return sorted([at_hand, *others])

    def bring(self, number: int) -> None:
        """Make volume `number` the one at hand.

        Raises VolumeMissing when nobody brings it; VolumeStale, VolumeForeign, VolumeMixed or VolumeDuplicated when
        another one is in its place; and what a directory raises whose files are not those of its set.
        """
        if number == self.label.number:
            return
        problem = ""
        found, looked = self._find(number)
        if found is None:
            self._refuse_impostor(number)
        while found is None:
            wanted = Wanted(self.label.bundle_id, number, self.label.of, tuple(looked), problem)
            place = self._ask(wanted)
            if place is None:
                raise VolumeMissing(
                    f"Volume {number} of {self.label.of} is not here",
                    problem or f"it is neither at {self.path} nor beside it",
                    "Mount it beside the volume that is here, and run the same command again",
                )
            looked = [place, *_below(place)]
            problem = self._why_not(looked, number)
            found = self._fitting(looked, number)
        self._take(found, label_of(found))

    def _find(self, number: int) -> tuple[Directory | None, list[Path]]:
        """A volume where this one was or beside it, else on media mounted beside that; and where it was looked for."""
        here = self.path.absolute()
        near = list(dict.fromkeys([here, self._sibling(number), *_below(here.parent)]))
        if (found := self._fitting(near, number)) is not None:
            return found, near
        name = self._sibling(number).name
        far = [place for mount in _below(here.parent.parent) for place in (mount, mount / name) if place not in near]
        return self._fitting(far, number), near + far

    def _sibling(self, number: int) -> Path:
        """The directory beside this one that would have the name of volume `number`."""
        here, end = self.path.absolute(), f"-{self.label.number}"
        stem = here.name.removesuffix(end)
        return here.with_name(f"{stem}-{number}") if stem != here.name else here

    def _fitting(self, places: Iterable[Path], number: int) -> Directory | None:
        """The one place with the right label."""
        found: dict[Path, Directory] = {}
        for place in places:
            volume = _volume_at(place)
            if volume is not None and label_of(volume) == replace(self.label, number=number):
                found.setdefault(place.resolve(), volume)
        if len(found) > 1:
            raise VolumeDuplicated(
                f"Volume {number} of {self.label.of} is here twice",
                " and ".join(str(place) for place in found),
                "Take one of them away",
            )
        return next(iter(found.values()), None)

    def _refuse_impostor(self, number: int) -> None:
        """Refuse another volume under the very name that volume `number` would have."""
        place = self._sibling(number)
        volume = None if place == self.path.absolute() else _volume_at(place)
        if volume is not None:
            self._judge(volume, label_of(volume), number)

    def _why_not(self, places: Iterable[Path], number: int) -> str:
        """Why what somebody brought is not volume `number`; "" when it is."""
        for place in places:
            volume = _volume_at(place)
            if volume is None:
                continue
            try:
                self._judge(volume, label_of(volume), number)
            except VerificationError as error:
                return f"{error.what}: {error.why}"
            return ""
        return "there is no volume of a bundle"

    def _judge(self, volume: Directory, label: Label, number: int) -> None:
        """Refuse a volume by its label, with the error that says what it is instead."""
        mine = self.label
        if label.bundle_id != mine.bundle_id:
            channel, version = _claims(self._volume)
            other, other_version = _claims(volume)
            kind = VolumeStale if other == channel else VolumeForeign
            raise kind(
                f"{volume.path} is a volume of another bundle",
                f"it is version {other_version} of {other!r}, wanted is version {version} of {channel!r}",
                f"Bring volume {number} of bundle {mine.bundle_id[:16]}",
            )
        if (label.size, label.of) != (mine.size, mine.of):
            raise VolumeMixed(
                f"{volume.path} was split in another way",
                f"it is one of {label.of} volumes of {label.size} bytes, the others are of {mine.of} of {mine.size}",
                "Bring the volumes of one splitting",
            )
        if label.number != number:
            raise VolumeDuplicated(
                f"{volume.path} is volume {label.number}", f"volume {number} is wanted", f"Bring volume {number}"
            )

    def _take(self, volume: Directory, label: Label) -> None:
        """Make a volume the one at hand, if it is exactly what the verified metadata says of it."""
        contents = self._contents
        if contents is None:
            raise VolumeMissing("The other volumes are not known yet", "metadata comes first", _RESPLIT)
        if label != self.label:
            for name, listed in contents.metadata.items():
                data = volume.read(name, limit=listed.length) if name in volume.files else b""
                if hashlib.sha256(data).hexdigest() != listed.sha256:
                    raise VolumeMixed(
                        f"{volume.path} does not have the metadata of its bundle", f"{name} differs", _RESPLIT
                    )
        listed_here = [(part.name, part.length) for part in self.sets[label.number - 1]]
        check_names([*listed_here, (LABEL, len(label.to_json()))], volume.files, volume.directories)
        self._volume, self.label = volume, label
        self.taken[label.number] = volume.path
        evidence = list(contents.evidence_parts)
        if label.number == 1 and sum(part.length for part in evidence) <= MAX_EARLY:
            self._held = {part.name: volume.read(part.name, limit=part.length) for part in evidence}


def _below(place: Path) -> list[Path]:
    """The directories in `place`, by name; not more than a few."""
    try:
        with os.scandir(place) as entries:
            found = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [place / name for name in found[:MAX_LOOKED_AT]]


def _volume_at(place: Path) -> Directory | None:
    """The volume at a place, if one is there that can be read; other people's media beside it are no error."""
    try:
        if not (place / LABEL).is_file():
            return None
        volume = open_bundle(place)
        label_of(volume)
    except (BundleError, OSError):
        return None
    return volume


def _claims(volume: Directory) -> tuple[str, int]:
    """Channel and version that a volume claims. Unsigned: for words to people only."""
    try:
        raw = parse_object(volume.read(TIMESTAMP, limit=MAX_TIMESTAMP), TIMESTAMP, limit=MAX_TIMESTAMP)
    except BundleError:
        return "unknown", 0
    signed = raw.get("signed")
    claims = signed if isinstance(signed, dict) else {}
    version = claims.get("version")
    return str(claims.get(CHANNEL)), version if type(version) is int else 0


_RESPLIT: Final = "Split the bundle again: plugsky bundle split"
