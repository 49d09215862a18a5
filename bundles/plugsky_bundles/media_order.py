"""What lies on the media of one bundle, and in which order it is read: a pure function of verified metadata.

Everything that carries or copies a bundle keeps to this order, so that media that can only be read forward (a tar
stream, one disc after the other) serve as well as a directory:

1. the files of `metadata/`: the roots by version, then timestamp, snapshot, targets and its roles;
2. the evidence, by path;
3. the **early** blobs, by digest: what is read before any payload. They are the chunk lists, the revocations, each
   `models/*/model.json`, and what else signed metadata names for verification;
4. the **payload**: the blobs of all files, files by path, blobs in file order, each digest once, at its first place,
   save those that were early.

Blobs that signed metadata declares absent from the media lie nowhere and have no place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from plugsky_bundles.format import METADATA, MIB, REVOCATIONS, ROLES, Chunk, FileEntry, blob_path
from plugsky_bundles.metadata import Listed
from plugsky_bundles.strict_json import malformed

MAX_EARLY: Final = 64 * MIB
"""All of metadata, evidence and early blobs together, in a form that is read forward: they are held in memory."""
MAX_EARLY_FILE: Final = MIB
_TAIL: Final = ("timestamp", "snapshot", "targets", *ROLES)


@dataclass(frozen=True, slots=True)
class Part:
    """One file on the media: its path there, its length in bytes, and its SHA-256."""

    name: str
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The exact set of a bundle on media, by the four parts above, each in its order.

    `metadata` and `evidence` by path on the media; `files` says which file a blob is (the first) part of, by digest,
    for people who must be told.
    """

    metadata: Mapping[str, Listed]
    evidence: Mapping[str, Listed]
    early: tuple[Chunk, ...]
    payload: tuple[Chunk, ...]
    files: Mapping[str, str] = field(repr=False)

    @property
    def bundle_id(self) -> str:
        """The digest of the snapshot."""
        return next(file.sha256 for name, file in self.metadata.items() if name.endswith(".snapshot.json"))

    @property
    def blobs(self) -> tuple[Chunk, ...]:
        """All blobs on the media, each once."""
        return self.early + self.payload

    @property
    def before_payload(self) -> Iterator[Part]:
        """What is read before any payload: metadata, evidence, early blobs."""
        yield from _listed(self.metadata)
        yield from _listed(self.evidence)
        yield from self.early_parts

    @property
    def early_parts(self) -> Iterator[Part]:
        """The early blobs."""
        yield from map(_part, self.early)

    @property
    def in_every_volume(self) -> Iterator[Part]:
        """What it takes to judge any volume of a split bundle by itself: metadata and early blobs."""
        yield from _listed(self.metadata)
        yield from self.early_parts

    @property
    def evidence_parts(self) -> Iterator[Part]:
        """The evidence."""
        yield from _listed(self.evidence)

    @property
    def parts(self) -> Iterator[Part]:
        """Everything on the media, in order."""
        yield from self.before_payload
        yield from self.payload_parts

    @property
    def payload_parts(self) -> Iterator[Part]:
        """The payload in order."""
        yield from map(_part, self.payload)

    def whose(self, name: str) -> str:
        """`name`, and of a blob the file that it is part of."""
        digest = name.rpartition("sha256-")[2]
        return f"{name} of {self.files[digest]}" if digest in self.files else name


def payload_order(entries: Iterable[FileEntry]) -> list[Chunk]:
    """The blobs of all files: files by path, blobs in file order, each digest once at its first place."""
    seen: dict[str, Chunk] = {}
    for entry in sorted(entries, key=lambda entry: entry.path):
        for blob in entry.blobs:
            seen.setdefault(blob.sha256, blob)
    return list(seen.values())


def contents(
    metadata: Mapping[str, Listed],
    evidence: Mapping[str, Listed],
    entries: Mapping[str, FileEntry],
    lists: Mapping[str, Chunk],
    *,
    absent: Collection[str] = (),
    also: Iterable[Chunk] = (),
) -> Contents:
    """The contents of a bundle. `metadata`: what was read in `metadata/`, by bare name; `absent`: digests not on media.

    `also` are further early blobs that signed metadata names. Raises MalformedMetadata when two entries list one digest
    with different lengths.
    """
    files: dict[str, str] = {}
    lengths: dict[str, int] = {}
    early: dict[str, Chunk] = {}
    small = [entry.blobs[0] for entry in entries.values() if _is_early(entry)]
    for path, blob in _all(entries, lists, also):
        files.setdefault(blob.sha256, path)
        if lengths.setdefault(blob.sha256, blob.length) != blob.length:
            raise malformed(blob_path(blob.sha256), "two files list it with different lengths")
    for blob in sorted((*lists.values(), *also, *small), key=lambda blob: blob.sha256):
        if blob.sha256 not in absent:
            early[blob.sha256] = blob
    payload = [b for b in payload_order(entries.values()) if b.sha256 not in early and b.sha256 not in absent]
    return Contents(
        metadata={f"{METADATA}/{name}": metadata[name] for name in sorted(metadata, key=metadata_place)},
        evidence=dict(sorted(evidence.items())),
        early=tuple(early.values()),
        payload=tuple(payload),
        files=files,
    )


def metadata_place(name: str) -> tuple[int, int]:
    """The place of a file of `metadata/`, by its bare name: roots by version, then the roles from the top down."""
    stem = name.removesuffix(".json")
    version, _, role = stem.rpartition(".")
    if role == "root":
        return 0, int(version)
    return 1 + _TAIL.index(role), 0


def _listed(files: Mapping[str, Listed]) -> Iterator[Part]:
    return (Part(name, file.length, file.sha256) for name, file in files.items())


def _part(blob: Chunk) -> Part:
    return Part(blob_path(blob.sha256), blob.length, blob.sha256)


def _is_early(entry: FileEntry) -> bool:
    """Whether a file is read before any payload: one small blob that verification or a plan looks into."""
    parts = entry.path.split("/")
    looked_into = entry.path == REVOCATIONS or (len(parts) == 3 and parts[0] == "models" and parts[2] == "model.json")
    return looked_into and not entry.chunks and entry.length <= MAX_EARLY_FILE


def _all(
    entries: Mapping[str, FileEntry], lists: Mapping[str, Chunk], also: Iterable[Chunk]
) -> Iterable[tuple[str, Chunk]]:
    for path, entry in sorted(entries.items()):
        for blob in entry.blobs:
            yield path, blob
    for path, chunk_list in sorted(lists.items()):
        yield f"the chunk list of {path}", chunk_list
    for blob in also:
        yield "the signed metadata", blob
