"""Writes one volume of a verified bundle: its exact part of the files and its label, read back like any copy."""

from __future__ import annotations

import hashlib
from io import BufferedReader, BytesIO
from pathlib import Path

from plugsky_bundles.carrying import Copied, copy
from plugsky_bundles.format import bundle_dirname
from plugsky_bundles.media import Bundle
from plugsky_bundles.media_order import Contents, Part
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.volume_sets import LABEL, Label, assign


def split_volume(verified: VerifiedBundle, number: int, size: int, out: Path, progress: Progress = silent) -> Copied:
    """Write volume `number` into a directory of its own in `out`.

    Raises VolumeTooSmall and what `carrying.copy` raises; `number` must be one of the volumes that the size gives.
    """
    volumes = assign(verified.contents, size)
    label = Label(verified.bundle_id, number, len(volumes), size).to_json()
    part = Part(LABEL, len(label), hashlib.sha256(label).hexdigest())
    path = out / f"{bundle_dirname(verified.channel, verified.version)}-volume-{number}"
    source = _Labelled(verified.bundle, label)
    return copy([source], verified.contents, [*volumes[number - 1], part], path, progress)


class _Labelled:
    """A bundle with a label beside its files."""

    def __init__(self, bundle: Bundle, label: bytes) -> None:
        self._bundle, self._label = bundle, label
        self.path, self.files, self.sealed = bundle.path, bundle.files, bundle.sealed

    def open(self, name: str) -> BufferedReader:
        """The label, or a file of the bundle."""
        return BufferedReader(BytesIO(self._label)) if name == LABEL else self._bundle.open(name)

    def read(self, name: str, *, limit: int) -> bytes:
        """A small file of the bundle."""
        return self._bundle.read(name, limit=limit)

    def check_set(self, contents: Contents) -> str:
        """As the bundle does."""
        return self._bundle.check_set(contents)

    def check_end(self) -> None:
        """As the bundle does."""
        self._bundle.check_end()
