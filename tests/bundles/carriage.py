"""A small sealed bundle with every shape of file that carriers meet, shared by the tests of carrying."""

import os
from pathlib import Path

import pytest

from bundles import forge as forging
from bundles.forge import NOW, Forge
from plugsky_bundles.media import open_bundle
from plugsky_bundles.verify import verify_metadata

PIECES = [os.urandom(100_000) for _ in range(3)]
MODEL = b"".join(PIECES)
BACKWARDS = PIECES[2] + PIECES[0]
FILES = {
    "models/tiny/tiny.gguf": MODEL,
    "models/tiny/model.json": b'{"id":"tiny"}',
    "models/twin/twin.gguf": MODEL,
    "models/zebra/zebra.gguf": BACKWARDS,
    "python/part.whl": b"PK wheel",
    "playbooks/empty.yml": b"",
    "policy/channel.json": b"{}",
}
LENGTHS = (100_000, 100_000, 100_000)
CUT = {
    "models/tiny/tiny.gguf": LENGTHS,
    "models/twin/twin.gguf": LENGTHS,
    "models/zebra/zebra.gguf": LENGTHS[:2],
}


class Carriage:
    """A trust directory, one sealed bundle, and how to verify any copy of it."""

    def __init__(self, base: Path) -> None:
        self.forge = Forge(base)
        self.path = self.seal()
        self.verified = self.verify(open_bundle(self.path))

    def seal(self, **options) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forging, "CUT", CUT)
            return self.forge.sealed(**{"files": FILES, **options})

    def verify(self, media):
        return verify_metadata(media, self.forge.fingerprint, now=NOW)

    def blob_of(self, path: str, number: int = 0) -> str:
        return forging.blob_path(self.verified.entries[path].blobs[number].sha256)


def tree(path: Path) -> dict[str, bytes]:
    """Everything in a directory by relative path."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def flip(path: Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
