"""Sizes around 2 and 4 GiB, numbers that wrap around, and bombs: each counted right, or refused before it costs much.

Whole models of such sizes are never written: a chunk of zeros is one blob however often a file has it, and a GGUF of
four gigabytes is a header and a hole.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import resource
import shutil
import struct
import tracemalloc
from pathlib import Path

import pytest

from bundles.forge import LIFETIME, NOW, Forge, put_blob, sha256
from bundles.gguf_forge import ARRAY, STRING, U8, U32, U64, string
from bundles.gguf_forge import Forge as GgufForge
from bundles.test_gguf import MALFORMED
from bundles.test_plan import FRESH
from plugsky_bundles import gguf, ustar
from plugsky_bundles.drafting import write_draft
from plugsky_bundles.errors import (
    DigestMismatch,
    FileTooLarge,
    GgufError,
    MalformedChunkList,
    MalformedMetadata,
    NoSpace,
)
from plugsky_bundles.format import MAX_CHUNK, Chunk, FileEntry, blob_path, check_entry, decode_chunk_list
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import plan_install
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata

GIB = 1 << 30
SIZES = {
    "2 GiB - 1": 2 * GIB - 1,
    "2 GiB": 2 * GIB,
    "2 GiB + 1": 2 * GIB + 1,
    "4 GiB - 1": 4 * GIB - 1,
    "4 GiB": 4 * GIB,
    "2^32 + 1": (1 << 32) + 1,
}
ZEROS = sha256(bytes(MAX_CHUNK))


def sparse(bundle: Path, path: str, length: int) -> FileEntry:
    """A file of zeros and a last byte of one: full chunks are one blob with a hole in it."""
    whole, rest = divmod(length - 1, MAX_CHUNK)
    blob = bundle / blob_path(ZEROS)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with blob.open("wb") as file:
        file.truncate(MAX_CHUNK)
    last = put_blob(bundle, bytes(rest) + b"\1")
    return FileEntry(path, length, "0" * 64, (*[Chunk(ZEROS, MAX_CHUNK)] * whole, last))


def seal(forge: Forge, bundle: Path, entry: FileEntry, channel: str) -> None:
    root, expires = open_trust(forge.trust).root_bytes, NOW + LIFETIME
    write_draft(bundle, [entry], channel=channel, version=1, root=root, now=NOW, expires=expires)
    forge.finish(bundle)


@pytest.mark.parametrize("length", SIZES.values(), ids=SIZES.keys())
def test_a_file_of_such_a_size_is_counted_to_its_last_byte(forge, tmp_path, length):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    entry = sparse(bundle, "models/big/big.bin", length)
    seal(forge, bundle, entry, f"size{length}")
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    assert sum(blob.length for blob in verified.entries["models/big/big.bin"].blobs) == length
    room = dataclasses.replace(FRESH, free_bytes=1 << 40)
    assert plan_install(verified, room).copied[0].length == length
    with pytest.raises(NoSpace):
        plan_install(verified, dataclasses.replace(FRESH, free_bytes=length - 1))
    for wrong in (length - 1, length + 1, length - (1 << 32), length & 0xFFFFFFFF, -length):
        if wrong != length:
            with pytest.raises((MalformedChunkList, MalformedMetadata)):
                check_entry(dataclasses.replace(entry, length=wrong))


@pytest.mark.integration
def test_the_last_byte_behind_4_gib_is_as_protected_as_the_first(forge, tmp_path):
    """No count of bytes may wrap: the byte at 2^32 is read, hashed and compared."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    entry = sparse(bundle, "models/big/big.bin", (1 << 32) + 1)
    digest, block = hashlib.sha256(), bytes(MAX_CHUNK)
    for _ in range((1 << 32) // MAX_CHUNK):
        digest.update(block)
    digest.update(b"\1")
    seal(forge, bundle, dataclasses.replace(entry, sha256=digest.hexdigest()), "four")
    verify_payload(verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW))
    (bundle / blob_path(entry.chunks[-1].sha256)).write_bytes(b"\2")
    with pytest.raises(DigestMismatch):
        verify_payload(verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW))


@pytest.mark.parametrize("length", SIZES.values(), ids=SIZES.keys())
def test_a_model_of_such_a_size_is_read_without_reading_it(tmp_path, length):
    """One tensor of bytes behind a header, the rest a hole."""
    size = length + -length % 32
    header = GgufForge(tensors=[("big", (length,), 24, length)]).header()
    start = len(header) + -len(header) % 32
    path = tmp_path / "big.gguf"
    path.write_bytes(header)
    for whole, good in (
        (start + length, True),
        (start + size, True),
        (start + length - 1, False),
        (start + size + 1, False),
    ):
        os.truncate(path, whole)
        with path.open("rb") as file, contextlib.nullcontext() if good else pytest.raises(GgufError):
            info = gguf.read(file, whole)
            assert info.tensors[0].length == length
            assert info.tensors[0].offset + length <= whole


# Numbers that wrap around


def raw_tensor(dimensions, kind, offset, data: bytes = bytes(64)) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + string("general.architecture") + struct.pack("<I", STRING)
    head += (
        string("llama")
        + string("t")
        + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
    )
    return head + bytes(-len(head) % 32) + data


def raw_value(kind: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<I", kind) + rest + bytes(64)


WRAPPING = {
    "elements that wrap to zero": raw_tensor((1 << 32, 1 << 32), 0, 0),
    "elements that wrap to a few": raw_tensor(((1 << 42) + 1, 1 << 22), 0, 0),
    "elements that wrap below the sign": raw_tensor((1 << 31, 1 << 31, 2), 0, 0),
    "bytes that wrap though the elements do not": raw_tensor((1 << 62,), 0, 0),
    "bytes of blocks that wrap": raw_tensor(((1 << 63) - 32,), 2, 0),
    "an offset that wraps": raw_tensor((8,), 0, (1 << 64) - 32),
    "an offset below the sign": raw_tensor((8,), 0, 1 << 63),
    "a dimension of 2^64 - 1": raw_tensor(((1 << 64) - 1,), 0, 0),
    "four dimensions of 65536": raw_tensor((65536,) * 4, 0, 0),
    "a rank of 2^32 - 1": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + b"\xff" * 64,
    "a string of 2^64 - 1": raw_value(STRING, struct.pack("<Q", (1 << 64) - 1)),
    "a string that wraps to its own start": raw_value(STRING, struct.pack("<Q", (1 << 64) - 8)),
    "an array whose bytes wrap to zero": raw_value(ARRAY, struct.pack("<IQ", U64, 1 << 61)),
    "an array whose bytes wrap to a few": raw_value(ARRAY, struct.pack("<IQ", U32, (1 << 62) + 1)),
    "an array of 2^64 - 1 bytes": raw_value(ARRAY, struct.pack("<IQ", U8, (1 << 64) - 1)),
    "an array of strings that wraps": raw_value(ARRAY, struct.pack("<IQQ", STRING, 2, (1 << 64) - 16)),
    "an array within an array within an array": raw_value(ARRAY, struct.pack("<IQIQ", ARRAY, 1, ARRAY, 1) + bytes(64)),
    "keys beyond any memory": b"GGUF" + struct.pack("<IQQ", 3, 0, (1 << 64) - 1) + bytes(64),
    "tensors beyond any memory": b"GGUF" + struct.pack("<IQQ", 3, (1 << 64) - 1, 0) + bytes(64),
    "an alignment of 2^31 - 1": GgufForge().with_key("general.alignment", U32, (1 << 31) - 1).build(),
    "an alignment of 2^32 - 1": GgufForge().with_key("general.alignment", U32, (1 << 32) - 1).build(),
    "an alignment in 64 bits": GgufForge().with_key("general.alignment", U64, 1 << 32).build(),
}


@pytest.mark.parametrize("name", WRAPPING)
def test_a_number_that_wraps_around_is_refused(name):
    with pytest.raises(GgufError) as caught:
        gguf.read(io.BytesIO(WRAPPING[name]), len(WRAPPING[name]))
    assert caught.value.exit_code == 5


TO_A_SITE = {**{name: data for name, (data, _) in MALFORMED.items() if data}, **WRAPPING}


@pytest.mark.parametrize("name", TO_A_SITE)
def test_a_malformed_model_that_was_signed_changes_nothing(site, name):
    files = {"models/bad/bad.gguf": TO_A_SITE[name], "policy/a": b"a"}
    bundle = site.bundle(files, channel="bad")
    site.refuses(bundle, GgufError)
    shutil.rmtree(bundle)


# Bombs


def test_a_model_that_announces_everything_costs_nothing():
    """What is announced is bounded before room is made for it."""
    tracemalloc.start()
    try:
        for data in WRAPPING.values():
            with pytest.raises(GgufError):
                gguf.read(io.BytesIO(data), len(data))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


LIMITS = {"1.root.json": 512_000, "timestamp.json": 16_384, "1.snapshot.json": 2_000_000, "1.models.json": 5_000_000}
BOMBS = {
    "nested a hundred thousand deep": lambda room: b"[" * min(room, 100_000),
    "nested in objects": lambda room: b'{"a":' * min(room // 5, 100_000),
    "a number of millions of digits": lambda room: b'{"signed":' + b"9" * (room - 20) + b"}",
    "a number with a giant exponent": lambda _: b'{"signatures":[],"signed":1e999999999}',
    "a text of millions of escapes": lambda room: b'{"a":"' + b"\\u0041" * ((room - 20) // 6) + b'"}',
    "a hundred thousand keys": lambda room: (
        b"{" + b",".join(b'"%d":0' % n for n in range(min(room // 10, 100_000))) + b"}"
    ),
    "one key again and again": lambda room: b"{" + b",".join([b'"a":0'] * (room // 7)) + b"}",
    "a hundred thousand signatures": lambda room: (
        b'{"signatures":[' + b",".join([b"{}"] * (room // 4)) + b'],"signed":{}}'
    ),
    "spaces without end": lambda room: b" " * room,
    "open quotes without end": lambda room: b'"\\' * (room // 2),
}


@pytest.mark.parametrize("file", LIMITS)
@pytest.mark.parametrize("name", BOMBS)
def test_json_that_explodes_is_refused_for_little(site, tmp_path, file, name):
    bundle = site.forge.base / f"bombed-{file}"
    if not bundle.exists():
        shutil.copytree(bomb_ground(site), bundle)
    path = bundle / "metadata" / file
    right = path.read_bytes()
    path.write_bytes(BOMBS[name](LIMITS[file])[: LIMITS[file]])
    try:
        pin = sha256(path.read_bytes()) if "root" in file else None
        with pytest.raises((MalformedMetadata, DigestMismatch)) as caught:
            verify_metadata(open_bundle(bundle), pin or site.forge.fingerprint, now=NOW)
        assert caught.value.exit_code == 5
    finally:
        path.write_bytes(right)


def bomb_ground(site) -> Path:
    ground = site.forge.base / "ground"
    return ground if ground.exists() else site.forge.sealed(name="ground", channel="ground")


@pytest.mark.parametrize("file", LIMITS)
def test_a_metadata_file_beyond_its_limit_is_not_read_to_its_end(site, file):
    bundle = site.forge.base / f"endless-{file}"
    shutil.copytree(bomb_ground(site), bundle)
    os.truncate(bundle / "metadata" / file, 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(DigestMismatch):
            verify_metadata(open_bundle(bundle), site.forge.fingerprint, now=NOW)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_chunk_list_that_announces_more_than_it_holds_is_refused_for_nothing():
    head = struct.pack(">8sII", b"PLUGSKYC", 1, (1 << 32) - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MalformedChunkList):
        decode_chunk_list(head + bytes(36))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_more_files_than_a_bundle_may_list_are_refused(site, monkeypatch):
    bundle = site.bundle({f"policy/f{number}": b"" for number in range(40)}, channel="many")
    monkeypatch.setattr("plugsky_bundles.format.MAX_TARGETS", 39)
    site.refuses(bundle, MalformedMetadata, "too many files")


def test_a_file_larger_than_the_format_counts_is_refused():
    with pytest.raises(MalformedMetadata):
        check_entry(FileEntry("models/a", (1 << 46) + 1, "0" * 64))


def test_no_stream_holds_a_part_beyond_what_ustar_counts():
    with pytest.raises(FileTooLarge):
        ustar.header("blobs/x", 1 << 33)
