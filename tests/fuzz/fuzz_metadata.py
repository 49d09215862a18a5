"""Fuzzes what judges metadata: the strict reader on raw bytes, and the whole walk on whatever the right keys sign.

The first byte of an input chooses: 0 to 3, one kind of metadata file as it is; 4 and more, one role whose signed part
is replaced, signed again with everything above it, and walked. What was accepted must be written in one way only.

`python -m fuzz.fuzz_metadata [libFuzzer flags] CORPUS`
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.harness import instrumented, run

with instrumented():
    from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

    from plugsky_bundles.entries import collect_entries
    from plugsky_bundles.errors import VerificationError
    from plugsky_bundles.format import ROLES, Chunk, FileEntry, blob_path
    from plugsky_bundles.media_directory import missing
    from plugsky_bundles.metadata import read_metadata, serialise
    from plugsky_bundles.state import TrustState
    from plugsky_bundles.strict_json import encode, parse_object
    from plugsky_bundles.walk import fingerprint, walk

from bundles.forge import NOW, Forge, InMemory, describe_bytes, envelope, file_name, signed_parts

KINDS = (Root, Timestamp, Snapshot, Targets)
ORDER = ("root", "targets", *ROLES, "snapshot", "timestamp")


class Ground:
    """A right bundle in memory, and the keys that sign it."""

    def __init__(self, base: Path) -> None:
        self.forge = Forge(base)
        bundle = self.forge.sealed()
        self.parts = signed_parts(bundle)
        self.names = {role: file_name(role, self.parts[role]) for role in ORDER}
        self.files = {role: (bundle / "metadata" / self.names[role]).read_bytes() for role in ORDER}
        self.blobs = {path.name: path.read_bytes() for path in bundle.glob("blobs/*/*")}
        for role in ORDER:
            self.forge.signers(role)
        self.state = TrustState(self.files["root"])

    def chunk_list(self, _entry: FileEntry, blob: Chunk) -> bytes:
        name = blob_path(blob.sha256)
        if (data := self.blobs.get(Path(name).name)) is None:
            raise missing(name)
        return data

    def with_signed(self, role: str, signed: dict[str, object]) -> InMemory:
        """The metadata with the signed part of one role replaced; what lists it says so, as signers would."""
        files = dict(self.files)
        files[role] = encode(envelope(signed, self.forge.signers(role)))
        if role in ("targets", *ROLES):
            snapshot = parse_object(self.files["snapshot"], role, limit=1 << 20)["signed"]
            describe_bytes(snapshot["meta"], role, files[role])
            files["snapshot"] = encode(envelope(snapshot, self.forge.signers("snapshot")))
        if files["snapshot"] != self.files["snapshot"]:
            timestamp = parse_object(self.files["timestamp"], role, limit=1 << 20)["signed"]
            describe_bytes(timestamp["meta"], "snapshot", files["snapshot"])
            files["timestamp"] = encode(envelope(timestamp, self.forge.signers("timestamp")))
        return InMemory((self.names[each], files[each]) for each in ORDER)


def one_input(data: bytes) -> None:
    if not data:
        return
    if data[0] < len(KINDS):
        metadata = read_metadata(data[1:], KINDS[data[0]], "metadata/x.json")
        assert serialise(metadata) == data[1:]
        return
    role = ORDER[(data[0] - len(KINDS)) % len(ORDER)]
    signed = parse_object(data[1:], role, limit=1 << 16)
    files = GROUND.with_signed(role, signed)
    by_paper = data[0] - len(KINDS) < len(ORDER)
    found = walk(files, fingerprint(files["1.root.json"]) if by_paper else GROUND.state, NOW)
    collect_entries(found.roles, GROUND.chunk_list)


def seeds() -> Iterator[bytes]:
    for number, role in enumerate(ORDER):
        kind = {"root": 0, "timestamp": 1, "snapshot": 2}.get(role, 3)
        yield bytes([kind]) + GROUND.files[role]
        yield bytes([len(KINDS) + number]) + encode(GROUND.parts[role])
        yield bytes([len(KINDS) + len(ORDER) + number]) + encode(GROUND.parts[role])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GROUND = Ground(Path(folder))
    run(one_input, (VerificationError,), seeds())
