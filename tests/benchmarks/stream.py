"""A stream longer than memory through the copying core: how fast, and how much memory it takes.

    .venv/bin/python tests/benchmarks/stream.py --size 40 --write

The source makes its bytes up and the sink forgets them, so neither disk nor cache plays a part. Every chunk is compared
with its digest, and the whole is hashed beside.
"""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import big_bundles
import report

from plugsky_bundles.errors import BundleError, DigestMismatch, MediaUnreadable
from plugsky_bundles.format import MAX_CHUNK, MIB, Chunk
from plugsky_bundles.pipeline import Pipeline

GIB = 1 << 30
LIMIT = 128 * MIB


class Generated:
    """One chunk of made-up bytes, given again and again."""

    local = placed = False

    def __init__(self) -> None:
        self._block = memoryview(os.urandom(MAX_CHUNK // 32))
        digest = hashlib.sha256()
        for _ in range(32):
            digest.update(self._block)
        self.chunk = Chunk(digest.hexdigest(), MAX_CHUNK)

    @contextmanager
    def open(self) -> Iterator[Generated]:
        yield self

    def readinto(self, view: memoryview, /) -> int:
        view[:] = self._block
        return len(view)

    def wrong(self, found: str) -> BundleError:
        return DigestMismatch("The stream is wrong", found, "Look for the mistake")

    def short(self, left: int) -> BundleError:
        return DigestMismatch("The stream is short", str(left), "Look for the mistake")

    def unreadable(self, error: OSError) -> BundleError:
        return MediaUnreadable("The stream failed", str(error), "Look for the mistake")


class Nowhere:
    """Forgets everything."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, view: memoryview, _at: int, /) -> None:
        self.bytes += len(view)

    def flush(self) -> None:
        """Nothing is kept."""


def main() -> None:
    parser = report.options(__doc__)
    parser.add_argument("--size", type=float, default=40, help="GiB to stream")
    given = parser.parse_args()
    conditions = big_bundles.conditions()
    source, sink, whole = Generated(), Nowhere(), hashlib.sha256()
    chunks = max(1, int(given.size * GIB) // MAX_CHUNK)
    start = time.perf_counter()
    with Pipeline() as pipeline:
        pipeline.thread(length=chunks * MAX_CHUNK)
        for number in range(chunks):
            pipeline.take(source, source.chunk, (whole,), sink, number * MAX_CHUNK)
        pipeline.settle()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    body = "\n".join(
        [
            "## A stream longer than memory",
            "",
            f"`.venv/bin/python tests/benchmarks/stream.py`: {conditions}.",
            "",
            report.table(
                ("streamed", "time", "rate", "most memory", "allowed"),
                [
                    (
                        f"{sink.bytes / GIB:g} GiB",
                        f"{seconds:.1f} s",
                        f"{sink.bytes / seconds / 1e6:.0f} MB/s",
                        f"{memory / MIB:.0f} MiB",
                        f"{LIMIT // MIB} MiB",
                    )
                ],
            ),
        ]
    )
    report.publish("stream", body, write=given.write)
    if memory > LIMIT:
        raise SystemExit(f"{memory} bytes of memory are more than {LIMIT}")


if __name__ == "__main__":
    main()
