"""The bundle format as plain values: files, chunks, names and ids. Pure: nothing here touches a disk.

* A **file** is an ordered list of **chunks**; a chunk is a blob named by its SHA-256, at most 64 MiB, never compressed.
  A file of at most 64 MiB may be its own single blob; then its entry lists no chunks.
* A **chunk list** is itself a blob. Binary, big-endian: `PLUGSKYC`, u32 version 1, u32 count, then per chunk 32 bytes
  SHA-256 and u32 length. Nothing may follow. A target names its list in TUF `custom.chunks` as `{length, sha256}`.
* The **role** of a target is the first segment of its path; each role signs only under its own prefix.
* The **content id** is SHA-256 over the sorted lines `path length sha256\\n`: it depends on what is inside and on
  nothing else. The **bundle id** is SHA-256 of the sealed snapshot's bytes.
* A **name** is one that every file system and every shell agrees on: ASCII letters, digits and `._+~-`; it starts with
  a letter, digit or `_`; no device names, no trailing dot, no two names that differ by case only.

Size limits of metadata are those of python-tuf's client, so that both reach the same verdict.
"""

from __future__ import annotations

import hashlib
import re
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from plugsky_bundles.errors import MalformedChunkList, MalformedMetadata, UnsafeName

MIB: Final = 1024 * 1024
MAX_CHUNK: Final = 64 * MIB
MAX_CHUNKS: Final = 1 << 20
MAX_FILE: Final = 1 << 46
MAX_TARGETS: Final = 100_000
MAX_VERSION: Final = (1 << 31) - 1

MAX_ROOT: Final = 512_000
MAX_TIMESTAMP: Final = 16_384
MAX_SNAPSHOT: Final = 2_000_000
MAX_TARGETS_METADATA: Final = 5_000_000

ROLES: Final = ("models", "python", "debs", "playbooks", "policy")
EVIDENCE_FILES: Final = ("README.txt", "install.sh")
EVIDENCE_DIRECTORIES: Final = ("docs", "evidence", "tools")
CUSTODY: Final = "evidence/custody.jsonl"
MAX_SEGMENTS: Final = 8
MAX_SEGMENT: Final = 200
MAX_PATH: Final = 512

METADATA: Final = "metadata"
BLOBS: Final = "blobs"
REVOCATIONS: Final = "policy/revocations.json"

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]*", re.ASCII)
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.ASCII | re.IGNORECASE)

_MAGIC: Final = b"PLUGSKYC"
_LIST_VERSION: Final = 1
_HEADER = struct.Struct(">8sII")
_RECORD = struct.Struct(">32sI")
MAX_CHUNK_LIST: Final = _HEADER.size + MAX_CHUNKS * _RECORD.size

_REMAKE = "Do not use it; ask its builder for another copy"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A blob by its lower-case hex SHA-256 and its length in bytes."""

    sha256: str
    length: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle. No chunks: the file is its own blob. `custom` is the target's signed extra data."""

    path: str
    length: int
    sha256: str
    chunks: tuple[Chunk, ...] = ()
    custom: Mapping[str, Any] = field(default_factory=dict)

    @property
    def role(self) -> str:
        return self.path.split("/", 1)[0]

    @property
    def blobs(self) -> tuple[Chunk, ...]:
        """The blobs whose concatenation is the file, in order."""
        return self.chunks or (Chunk(self.sha256, self.length),)


def is_sha256(text: object) -> bool:
    """Whether `text` is exactly 64 lower-case hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def blob_path(sha256: str) -> str:
    """Where a blob lies inside a bundle: `blobs/ab/sha256-<hex>`. Refuses anything but 64 lower-case hex digits."""
    if not is_sha256(sha256):
        raise MalformedMetadata("A digest is malformed", f"{sha256!r} is not 64 lower-case hex digits", _REMAKE)
    return f"blobs/{sha256[:2]}/sha256-{sha256}"


def bundle_dirname(channel: str, version: int) -> str:
    """The directory name of a bundle: `plugsky-<channel>-<version>`."""
    check_channel(channel)
    check_version(version)
    return f"plugsky-{channel}-{version}"


def check_channel(channel: object) -> str:
    """`channel`, if it is 1 to 32 of a-z, 0-9 and `-`, not starting with `-`. Raises UnsafeName."""
    if not isinstance(channel, str) or _CHANNEL.fullmatch(channel) is None:
        raise UnsafeName(
            f"The channel name {channel!r} is not allowed",
            "a channel is 1 to 32 lower-case letters, digits and '-'",
            "Choose another name",
        )
    return channel


def check_version(version: object) -> int:
    """`version`, if it is an integer from 1 to 2^31 - 1. Raises MalformedMetadata."""
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise MalformedMetadata(
            f"The version {version!r} is out of range", f"versions run from 1 to {MAX_VERSION}", _REMAKE
        )
    return version


def check_target_path(path: str) -> None:
    """Refuse a target path outside the rules at the top of this module, or one whose first segment is not a role."""
    if not isinstance(path, str) or not path or len(path) > MAX_PATH:
        raise UnsafeName(
            f"The name {path!r} is not allowed", f"a path has 1 to {MAX_PATH} characters", "Rename the file"
        )
    segments = path.split("/")
    if segments[0] not in ROLES or not 2 <= len(segments) <= MAX_SEGMENTS:
        raise UnsafeName(
            f"The name {path!r} is not allowed",
            f"a path starts with one of {', '.join(ROLES)} and has 2 to {MAX_SEGMENTS} segments",
            "Rename the file",
        )
    _check_segments(path, segments)


def check_evidence_path(path: str) -> None:
    """Refuse the path of a file outside the targets: README.txt and install.sh, or under docs/, evidence/ or tools/."""
    segments = path.split("/") if isinstance(path, str) and len(path) <= MAX_PATH else []
    if path not in EVIDENCE_FILES and not (segments and segments[0] in EVIDENCE_DIRECTORIES and len(segments) > 1):
        raise UnsafeName(
            f"The file {path!r} does not belong in a bundle",
            f"beside metadata and blobs there are {', '.join((*EVIDENCE_FILES, *EVIDENCE_DIRECTORIES))}",
            "Remove it",
        )
    if len(segments) > MAX_SEGMENTS:
        raise UnsafeName(f"The name {path!r} is not allowed", f"more than {MAX_SEGMENTS} segments", "Rename the file")
    _check_segments(path, segments)


def _check_segments(path: str, segments: Sequence[str]) -> None:
    for segment in segments:
        if (
            len(segment) > MAX_SEGMENT
            or _SEGMENT.fullmatch(segment) is None
            or segment.endswith(".")
            or _DEVICE.fullmatch(segment)
        ):
            raise UnsafeName(
                f"The name {path!r} is not allowed",
                f"{segment!r} must be at most {MAX_SEGMENT} of A-Z a-z 0-9 . _ + ~ -, begin with a letter, digit"
                " or '_', not end with a dot and not be a device name",
                "Rename the file",
            )


def check_target_paths(paths: Iterable[str]) -> None:
    """Check each path, and that no two collide: same but for case, or one a directory of the other."""
    seen: dict[str, str] = {}
    for count, path in enumerate(paths, start=1):
        if count > MAX_TARGETS:
            raise MalformedMetadata("The bundle lists too many files", f"the limit is {MAX_TARGETS}", _REMAKE)
        check_target_path(path)
        other = seen.setdefault(path.lower(), path)
        if count != len(seen):
            raise UnsafeName(
                f"The names {other!r} and {path!r} collide", "they differ by case at most", "Rename one of the files"
            )
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(2, len(parts)):
            if (parent := seen.get("/".join(parts[:depth]))) is not None:
                raise UnsafeName(
                    f"The names {parent!r} and {path!r} collide",
                    "one would have to be a file and a directory",
                    "Rename one of the files",
                )


def check_entry(entry: FileEntry) -> None:
    """Refuse an entry whose sizes, digests or chunks do not fit together."""
    check_target_path(entry.path)
    if type(entry.length) is not int or not 0 <= entry.length <= MAX_FILE or not is_sha256(entry.sha256):
        raise MalformedMetadata(
            f"The entry of {entry.path!r} is malformed",
            f"length {entry.length!r} or digest {entry.sha256!r} is out of range",
            _REMAKE,
        )
    if entry.chunks:
        _check_chunks(entry.chunks)
        total = sum(chunk.length for chunk in entry.chunks)
        if total != entry.length:
            raise MalformedChunkList(
                f"The chunk list of {entry.path!r} does not add up",
                f"its chunks hold {total} bytes, the file {entry.length}",
                _REMAKE,
            )
    elif entry.length > MAX_CHUNK:
        raise MalformedMetadata(
            f"{entry.path!r} is too large for one blob", f"above {MAX_CHUNK} bytes a file needs a chunk list", _REMAKE
        )


def encode_chunk_list(chunks: Sequence[Chunk]) -> bytes:
    """The binary chunk list (see the module's text); the inverse of `decode_chunk_list`."""
    _check_chunks(chunks)
    data = bytearray(_HEADER.pack(_MAGIC, _LIST_VERSION, len(chunks)))
    for chunk in chunks:
        data += _RECORD.pack(bytes.fromhex(chunk.sha256), chunk.length)
    return bytes(data)


def decode_chunk_list(data: bytes) -> tuple[Chunk, ...]:
    """Decode a chunk list exactly: any other magic, version, count, length or size is `MalformedChunkList`."""
    if len(data) < _HEADER.size:
        raise _bad_list(f"{len(data)} bytes are too few")
    magic, version, count = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _LIST_VERSION:
        raise _bad_list("it is not a version 1 chunk list")
    if not 1 <= count <= MAX_CHUNKS or len(data) != _HEADER.size + count * _RECORD.size:
        raise _bad_list(f"{len(data)} bytes cannot hold the {count} chunks it announces")
    records = _RECORD.iter_unpack(memoryview(data)[_HEADER.size :])
    # One file's list is decoded from the media, the site's copies and its store: equal values are kept once.
    lengths: dict[int, int] = {}
    chunks = tuple(Chunk(sys.intern(digest.hex()), lengths.setdefault(length, length)) for digest, length in records)
    _check_chunks(chunks)
    return chunks


def content_id(entries: Iterable[FileEntry]) -> str:
    """SHA-256 over the sorted lines `path length sha256\\n`: same content, same id, whoever built it and when."""
    lines = sorted(f"{entry.path} {entry.length} {entry.sha256}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def _check_chunks(chunks: Sequence[Chunk]) -> None:
    if not 1 <= len(chunks) <= MAX_CHUNKS:
        raise _bad_list(f"{len(chunks)} chunks, allowed are 1 to {MAX_CHUNKS}")
    for chunk in chunks:
        if type(chunk.length) is not int or not 1 <= chunk.length <= MAX_CHUNK or not is_sha256(chunk.sha256):
            raise _bad_list(f"a chunk of {chunk.length!r} bytes named {chunk.sha256!r} is out of range")


def _bad_list(why: str) -> MalformedChunkList:
    return MalformedChunkList("A chunk list is malformed", why, _REMAKE)
