"""Fuzzes the reader of tar streams, from a file (which can be skipped in) and from a pipe, up to a full verification.

The first byte of an input chooses: even, a file; odd, a pipe. A stream that is accepted whole must be the right one,
byte for byte: every byte of a stream is either fixed by its one form or signed.

`python -m fuzz.fuzz_tar [libFuzzer flags] CORPUS`
"""

from __future__ import annotations

import gc
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.harness import instrumented, run

with instrumented():
    from plugsky_bundles import streaming, ustar
    from plugsky_bundles.errors import NotFound, VerificationError
    from plugsky_bundles.forward_read import verify_forward
    from plugsky_bundles.media import open_bundle
    from plugsky_bundles.tar_stream import TarStream
    from plugsky_bundles.verify import verify_metadata

from bundles.forge import NOW, Forge

PIPE = 65536
FILES = {"models/a/a.bin": b"one", "policy/channel.json": b"{}", "python/empty.whl": b""}


def opened(data: bytes, *, pipe: bool) -> TarStream:
    """The stream in a file in memory, or as much of it as a pipe holds."""
    if pipe:
        end, start = os.pipe()
        os.write(start, data[:PIPE])
        os.close(start)
        return TarStream(end, Path("stream"))
    file = os.memfd_create("stream")
    os.write(file, data)
    os.lseek(file, 0, os.SEEK_SET)
    return TarStream(file, Path("stream"))


def one_input(data: bytes) -> None:
    if next(RUNS) % 64 == 0:
        gc.collect()  # descriptors are closed with their streams, which are cycles
    if len(data) > ustar.BLOCK and data[0] & 2:
        name, size = ustar.parse(data[1 : 1 + ustar.BLOCK])
        assert ustar.header(name, size) == data[1 : 1 + ustar.BLOCK]
    if data:
        stream = opened(data[1:], pipe=bool(data[0] & 1))
        verify_forward(verify_metadata(stream, FINGERPRINT, now=NOW))
        assert data[1:] == RIGHT


def seeds() -> Iterator[bytes]:
    head = ustar.header("metadata/1.root.json", 3) + b"{}\n".ljust(ustar.BLOCK, b"\0")
    for chosen in (b"\0", b"\1", b"\2"):
        yield chosen + RIGHT[:PIPE]
        yield chosen + head + ustar.header("metadata/timestamp.json", 0) + ustar.END
        yield chosen + head + ustar.header("blobs/ab/sha256-ab" + "0" * 62, 1 << 30)
        yield chosen + ustar.header("docs/" + "d" * 90 + "/" + "n" * 90, 0) + ustar.END


RUNS = itertools.count(1)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        forge = Forge(Path(folder))
        FINGERPRINT = forge.fingerprint
        right = verify_metadata(open_bundle(forge.sealed(files=FILES)), FINGERPRINT, now=NOW)
        RIGHT = b"".join(bytes(block) for block in streaming.stream(right))
        assert len(RIGHT) <= PIPE
    run(one_input, (VerificationError, NotFound), seeds())
