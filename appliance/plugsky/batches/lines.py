"""The lines of a batch: read from its input, and written one by one as they end, so that a killed process goes on.

An answer is a line in one of two files: ``output`` for those of status 200, ``errors`` for the rest. A line that was
cut off by a kill or a power cut is removed when the batch goes on, and its request is run again.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError

MAX_LINE: Final = 8 << 20
MAX_PROBLEMS: Final = 20


@dataclass(frozen=True)
class Line:
    """One request: its number in the file from 1, the client's name for it, and its body."""

    number: int
    custom_id: str
    body: bytes


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class _Read(msgspec.Struct, frozen=True):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Named(msgspec.Struct, frozen=True):
    custom_id: str


class _Streams(msgspec.Struct, frozen=True):
    stream: Any = None


def claim(path: Path) -> BinaryIO | None:
    """Take the batch whose input lies at ``path`` for this process, until that is closed. None: another has it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # a host that has not the site's files
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def check(path: Path, endpoint: str, most: int) -> tuple[int, list[Problem]]:
    """How many requests a file holds, and the first :data:`MAX_PROBLEMS` that cannot be run."""
    seen: set[str] = set()
    problems: list[Problem] = []
    count = 0
    with path.open("rb") as file:
        for number, raw in _raw_lines(file):
            count += 1
            if count > most:
                problems.append(Problem("too_many_requests", f"The file has more than {most} requests"))
                break
            found = _line(number, raw, endpoint)
            if isinstance(found, Line) and found.custom_id in seen:
                found = Problem("duplicate_custom_id", "Each custom_id is there once", number, "custom_id")
            if isinstance(found, Problem):
                problems.append(found)
                if len(problems) >= MAX_PROBLEMS:
                    break
            else:
                seen.add(found.custom_id)
    if not count:
        problems.append(Problem("empty_file", "The file holds no request"))
    return count, problems


def read(path: Path, endpoint: str, done: frozenset[str]) -> Iterator[Line]:
    """The requests of a checked file that are not ``done``, in their order."""
    with path.open("rb") as file:
        for number, raw in _raw_lines(file):
            found = _line(number, raw, endpoint)
            if isinstance(found, Line) and found.custom_id not in done:
                yield found


class Answers:
    """The file of answers of one kind. ``done`` are the custom ids in it, ``size`` its bytes.

    Raises TAMPERED for a file with a whole line that was not written here.
    """

    def __init__(self, path: Path) -> None:
        self.done: set[str] = set()
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
        whole = 0
        try:
            for raw in self._file:
                if not raw.endswith(b"\n"):
                    break
                self.done.add(msgspec.json.decode(raw, type=_Named).custom_id)
                whole += len(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._file.close()
            raise PlugskyError(
                ErrorKind.TAMPERED, "A file of answers is damaged", why=f"{path.name} holds a line that is none"
            ) from None
        self._file.truncate(whole)
        self._file.seek(whole)
        self.size = whole

    def add(self, custom_id: str, line: bytes) -> None:
        """Write one line, handed to the kernel at once: a kill of this process loses none."""
        self._file.write(line + b"\n")
        self._file.flush()
        self.done.add(custom_id)
        self.size += len(line) + 1

    def close(self) -> None:
        """Put it on the disk itself and let go of it."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank, with its number; one that is too long is cut, and so no JSON."""
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE)
            yield number, b""
        elif raw.strip():
            yield number, raw


def _line(number: int, raw: bytes, endpoint: str) -> Line | Problem:
    if not raw:
        return Problem("line_too_long", f"A line has {MAX_LINE} bytes at most", number)
    try:
        found = msgspec.json.decode(raw, type=_Read)
        streams = msgspec.json.decode(found.body, type=_Streams)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        why = "A line is a JSON object with custom_id, method, url and body"
        return Problem("invalid_json_line", why, number)
    if not 0 < len(found.custom_id) <= 512:
        return Problem("invalid_custom_id", "A custom_id has 1 to 512 characters", number, "custom_id")
    if found.method != "POST":
        return Problem("invalid_method", "The method is POST", number, "method")
    if found.url != endpoint:
        return Problem("mismatched_url", f"The url is the batch's endpoint, {endpoint}", number, "url")
    if streams.stream:
        return Problem("invalid_body", "An answer in a batch is not streamed", number, "body.stream")
    return Line(number, found.custom_id, bytes(found.body))
