"""Hash-chained, signed logs: the custody of a bundle and the audit of a site.

Guarantees, in order: a record that `append` returned for survives the death of the process (it is in the kernel); a
record before a returned `commit` survives a power cut and is covered by a signature. One writer per file, held by a
lock. What fails leaves the log as it can be continued: a record that `append` raised for is not in the file, and a
commit whose sync failed is synced by the next. Appending is not thread-safe: that is the caller's business; only `sync`
may run beside it.

Opening a log that a process left behind keeps every whole line that still follows its predecessor, cuts a torn rest
(kept beside the log as `<name>.torn-<seq>`), writes a `chain.recovered` record saying which, and commits. At most
8 MiB can stand uncommitted (the writer commits by itself beyond half of that); more was not left behind by a writer and
is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from securesystemslib.signer import Signer, SSlibKey

from plugsky_bundles.atomic import out_of_space, sync_directory, write_file
from plugsky_bundles.chain_lines import (
    MAX_LINE,
    START,
    Line,
    Position,
    genesis,
    head_payload,
    read_genesis,
    read_line,
    sign_head,
    write_line,
)
from plugsky_bundles.chain_verify import ChainReport, commit_fits, verify_chain
from plugsky_bundles.errors import ChainError, ExistsError, KeyUnusable, VerificationError

__all__ = [
    "ChainReport",
    "ChainWriter",
    "Line",
    "Position",
    "Recovery",
    "being_written",
    "head_payload",
    "verify_chain",
]

MAX_TAIL: Final = 8 << 20
MAX_ORIGIN: Final = 200
RECOVERED: Final = "chain.recovered"
_OPENING: Final = b'{"genesis":'


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found behind the last commit: whole records kept and signed now, and torn bytes cut away."""

    recommitted: int = 0
    cut_bytes: int = 0


def being_written(path: Path) -> bool:
    """Whether a process holds the chain at `path`."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class ChainWriter:
    """The one writer of a chain. `origin` says whose log it is ("trust", "gateway.host1") and is signed with it."""

    def __init__(self, path: Path, signer: Signer, origin: str, *, follows: Position = START) -> None:
        """Open or create the chain at `path`.

        Raises ExistsError when another process writes it, KeyUnusable when it belongs to another key or origin,
        ChainError when what stands behind the last commit cannot have been left by a writer, NoSpace.
        """
        if not origin or len(origin) > MAX_ORIGIN or not origin.isprintable():
            msg = f"an origin is 1 to {MAX_ORIGIN} printable characters"
            raise ValueError(msg)
        key = signer.public_key
        if not isinstance(key, SSlibKey):
            msg = "a chain is signed with a key of securesystemslib's own kind"
            raise TypeError(msg)
        self._path, self._signer, self._key, self._origin = path, signer, key, origin
        self._position = follows
        self._uncommitted = 0
        self._unsynced = False
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o640)
        try:
            self._lock()
            self._size = os.fstat(self._fd).st_size
            self.recovery = self._create() if self._unborn() else self._reopen()
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def position(self) -> Position:
        """The last line written."""
        return self._position

    def append(self, record: Mapping[str, Any]) -> Position:
        """Add a record: JSON without floats, at most 1 MiB and 14 levels.

        Raises ValueError, TypeError, NoSpace or OSError; the record is then not in the log.
        """
        if self._uncommitted > MAX_TAIL // 2:
            self.commit()
        raw, position = write_line(self._position, "record", record)
        self._write(raw)
        self._position, self._uncommitted = position, self._uncommitted + len(raw)
        return position

    def commit(self) -> Position:
        """Sign everything appended so far and make it last. Returns the commit's position; does nothing when clean."""
        position = self.sign()
        self.sync()
        return position

    def sign(self) -> Position:
        """The first half of `commit`: sign what was appended. Returns the last position."""
        if self._uncommitted:
            raw, position = write_line(self._position, "commit", sign_head(self._signer, self._origin, self._position))
            self._write(raw)
            self._position, self._uncommitted, self._unsynced = position, 0, True
        return self._position

    def sync(self) -> None:
        """The second half of `commit`: make what was signed last. The next one tries again where this one fails."""
        if self._unsynced:
            os.fdatasync(self._fd)
            self._unsynced = False

    def close(self) -> None:
        """Commit and let go of the file."""
        if self._fd >= 0:
            try:
                self.commit()
            finally:
                os.close(self._fd)
                self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExistsError(
                f"{self._path} is being written", "another process holds it", "Wait for it, or stop it first"
            ) from None

    def _unborn(self) -> bool:
        """Whether creation never finished: genesis and first commit are one write, so nothing else can be there yet."""
        head = os.pread(self._fd, 2 * MAX_LINE, 0)
        ours = head.startswith(_OPENING) or _OPENING.startswith(head)
        return ours and head.count(b"\n") < 2 and len(head) == self._size

    def _create(self) -> Recovery:
        cut = self._size
        os.ftruncate(self._fd, 0)
        self._size = 0
        first, position = write_line(self._position, "genesis", genesis(self._key, self._origin))
        second, position = write_line(position, "commit", sign_head(self._signer, self._origin, position))
        self._write(first + second)
        os.fsync(self._fd)
        sync_directory(self._path.parent)
        self._position = position
        return Recovery(0, cut)

    def _reopen(self) -> Recovery:
        self._own()
        start = max(0, self._size - MAX_TAIL)
        window = os.pread(self._fd, self._size - start, start)
        offset, self._position = self._last_commit(window)
        kept = 0
        for raw in window[offset:].splitlines(keepends=True):
            try:
                line = read_line(raw)
            except VerificationError:
                break
            if line.seq != self._position.seq + 1 or line.prev != self._position.hash or line.kind != "record":
                break
            self._position, kept, offset = line.position, kept + 1, offset + len(raw)
        torn = window[offset:]
        if torn:
            write_file(self._path.with_name(f"{self._path.name}.torn-{self._position.seq + 1}"), torn, mode=0o640)
            self._size = start + offset
            os.ftruncate(self._fd, self._size)
        recovery = Recovery(kept, len(torn))
        if kept or torn:
            record = {"event": RECOVERED, "recommitted": kept, "cut_bytes": len(torn)}
            self.append(record | {"cut_sha256": hashlib.sha256(torn).hexdigest()})
            self.commit()
        return recovery

    def _own(self) -> None:
        head = os.pread(self._fd, MAX_LINE, 0)
        try:
            key, origin = read_genesis(read_line(head[: head.find(b"\n") + 1]))
        except VerificationError as error:
            raise self._refusal(f"its first line is not that of a log: {error.why}") from None
        if key.keyid != self._key.keyid or origin != self._origin:
            raise KeyUnusable(
                f"{self._path} belongs to someone else",
                f"it was begun by {origin!r} with key {key.keyid}",
                "Use that key, or begin a new log elsewhere",
            )

    def _last_commit(self, window: bytes) -> tuple[int, Position]:
        """Where the newest commit that our key signed ends inside `window`, and its position."""
        lines: list[tuple[bytes, int]] = []
        offset = 0
        for raw in window.splitlines(keepends=True):
            offset += len(raw)
            lines.append((raw, offset))
        for index in range(len(lines) - 1, 0, -1):
            raw, end = lines[index]
            if b'"commit":' not in raw[:16]:
                continue
            try:
                line, before = read_line(raw), read_line(lines[index - 1][0])
            except VerificationError:
                continue
            if line.prev == before.hash and commit_fits(line, before.position, self._key, self._origin):
                return end, line.position
        raise self._refusal("no signature of its key is near its end: it was edited")

    def _refusal(self, why: str) -> ChainError:
        then = "Keep it as evidence and begin a new log elsewhere"
        return ChainError(f"{self._path} cannot be continued", why, then, seq=0, offset=0)

    def _write(self, raw: bytes) -> None:
        """Append `raw` whole, or leave the file as it was."""
        view = memoryview(raw)
        try:
            with out_of_space(self._path):
                while view:
                    view = view[os.write(self._fd, view) :]
        except BaseException:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(raw)
