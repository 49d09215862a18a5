"""A bundle as one tar stream: for data diodes, pipes and encryption, where media can only be read forward, once.

There is exactly one way to write a bundle as a stream, and nothing else is accepted: regular files with headers of
`ustar`, the parts in the order of `media_order`, then two zero blocks and the end. What this guarantees:

* metadata, evidence and early blobs are held in memory, at most 64 MiB of them, whatever the stream says;
* as soon as the metadata is verified, the whole rest of the stream is known but for the bytes of the payload:
  `check_set` compares what was seen with that, and from then on every header must be the expected one;
* a blob that is not wanted is passed over; one that was passed is gone, and asking for it is an error;
* `check_end` reads to the end and refuses whatever follows it.

A plain `tar` lists and unpacks such a stream; what it unpacks is the bundle's directory.
"""

from __future__ import annotations

import io
import os
import re
import stat
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from plugsky_bundles import ustar
from plugsky_bundles.errors import (
    DigestMismatch,
    MalformedStream,
    MediaUnreadable,
    NotFound,
    StreamCut,
    StreamEncrypted,
    UnsafeName,
)
from plugsky_bundles.format import METADATA, MIB, check_evidence_path
from plugsky_bundles.media_directory import missing, unreadable
from plugsky_bundles.media_order import MAX_EARLY, Contents, Part

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN: Final = Path("-")
MAX_HELD: Final = 100_000
_BUFFER: Final = MIB
_METADATA = re.compile(r"metadata/(?:timestamp|[1-9][0-9]{0,9}\.[a-z]+)\.json", re.ASCII)
_BLOB = re.compile(r"blobs/([0-9a-f]{2})/sha256-\1[0-9a-f]{62}", re.ASCII)
_AGE: Final = (b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----")
"""How a file of age begins, binary and armoured (https://age-encryption.org/v1)."""
_RESEND: Final = "Have it sent again: plugsky bundle stream"


class TarStream:
    """The bundle in an open file or pipe, which is read forward from where it stands, and closed with this object."""

    def __init__(self, descriptor: int, path: Path) -> None:
        """Read the metadata. Raises NotFound, MalformedStream, StreamCut, StreamEncrypted or MediaUnreadable."""
        self.path = path
        self.files: dict[str, int] = {}
        self._descriptor = descriptor
        self._seekable = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._held: dict[str, bytearray] = {}
        self._bytes = 0
        self._begun = False
        self._ahead: tuple[str, int] | None = None
        self._coming: deque[Part] | None = None
        self._member = _Member(self, 0)
        self._ended = False
        weakref.finalize(self, os.close, descriptor)
        while (ahead := self._header()) is not None:
            if _METADATA.fullmatch(ahead[0]) is None:
                self._ahead = ahead
                break
            self._hold(*ahead)
        if not self._held:
            raise NotFound(f"{path} is not a bundle's tar stream", "it does not begin with metadata", _RESEND)

    @property
    def sealed(self) -> bool:
        """Whether it has a timestamp."""
        return f"{METADATA}/timestamp.json" in self.files

    def open(self, name: str) -> io.BufferedReader:
        """One file: what is held in memory at any time, payload once and in order."""
        if name in self._held or self._coming is None:
            return io.BufferedReader(io.BytesIO(self._find(name)))
        while self._coming:
            part = self._coming.popleft()
            self._expect(part)
            if part.name == name:
                return io.BufferedReader(self._member, _BUFFER)
        raise MediaUnreadable(
            f"{name} has gone by", "a stream is read forward, each part once", "Run it again with the stream anew"
        )

    def read(self, name: str, *, limit: int) -> bytes:
        """The whole of a small file; before `check_set`, the stream is read on until it comes."""
        with self.open(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DigestMismatch(f"{name} is too long", f"it has more than {limit} bytes", _RESEND)
        return data

    def check_set(self, contents: Contents) -> str:
        """From here on, only what `contents` lists may come, in its order."""
        before = list(contents.before_payload)
        if sum(part.length for part in before) > MAX_EARLY:
            raise MalformedStream(
                "This bundle cannot be read as a stream",
                f"more than {MAX_EARLY} bytes precede its payload",
                "Carry its directory instead",
            )
        for (name, length), part in zip(self.files.items(), before, strict=False):
            _check_place(name, length, part)
        for name, length in list(self.files.items())[len(before) :]:
            raise _unlisted(name, length)
        for part in before[len(self.files) :]:
            self._hold(*self._next(part))
        self._coming = deque(contents.payload_parts)
        return "what precedes the payload in the stream is exactly what is listed, and the rest must come as listed"

    def check_end(self) -> None:
        """Pass over what is left, and refuse anything behind the end."""
        while self._coming:
            self._expect(self._coming.popleft())
        if (ahead := self._header()) is not None:
            raise _unlisted(*ahead)

    def _find(self, name: str) -> bytearray:
        """A file from memory; before the contents are known, the stream is held until it comes."""
        while name not in self._held:
            ahead = self._header()
            if ahead is None:
                raise missing(name)
            if not _may_precede(ahead[0]):
                raise _unlisted(*ahead)
            self._hold(*ahead)
        return self._held[name]

    def _hold(self, name: str, length: int) -> None:
        """Keep the file whose header was just read."""
        self._bytes += length
        if self._bytes > MAX_EARLY or len(self._held) >= MAX_HELD:
            raise MalformedStream(
                "Too much precedes the payload", f"at most {MAX_EARLY} bytes in {MAX_HELD} files may", _RESEND
            )
        if name in self._held:
            raise MalformedStream(f"{name} comes twice", "each part of a bundle has one place", _RESEND)
        data = self._held[name] = bytearray(length)
        self.files[name] = length
        self._member = _Member(self, length)
        with memoryview(data) as view:
            done = 0
            while done < length:
                done += self._member.readinto(view[done:])

    def _expect(self, part: Part) -> None:
        """Go on to the next file, which must be `part`."""
        _, length = self._next(part)
        self._member = _Member(self, length)

    def _next(self, part: Part) -> tuple[str, int]:
        ahead = self._header()
        if ahead is None:
            raise missing(part.name)
        _check_place(*ahead, part)
        return ahead

    def _header(self) -> tuple[str, int] | None:
        """Name and size of the next file, after the rest of the one before; None at the end of the stream."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        if self._ended:
            return None
        self._leave_member()
        block = self._exactly(ustar.BLOCK)
        if not self.files and block.startswith(_AGE):
            raise StreamEncrypted(
                f"{'What arrived on standard input' if self.path == STDIN else self.path} is encrypted with age",
                "a bundle is verified as it comes out of decryption",
                "Decrypt it on its way: age -d -i KEY FILE | plugsky bundle verify -",
                path=str(self.path),
            )
        if any(block):
            return ustar.parse(block)
        if any(self._exactly(ustar.BLOCK)):
            raise MalformedStream("The stream ends in a wrong way", "one zero block stands alone", _RESEND)
        if self.take_into(memoryview(bytearray(1)), may_end=True):
            raise MalformedStream("Something follows the end of the stream", "a bundle ends there", _RESEND)
        self._ended = True
        return None

    def _leave_member(self) -> None:
        """Pass over what was not read of the last file (in a file on disk without reading it), and its padding."""
        left, length = self._member.left, self._member.length
        self._member.left = self._member.length = 0
        if self._seekable and left:
            os.lseek(self._descriptor, left, os.SEEK_CUR)
        elif left:
            with memoryview(bytearray(min(left, _BUFFER))) as buffer:
                while left:
                    left -= self.take_into(buffer[: min(left, len(buffer))])
        if any(self._exactly(ustar.padding(length))):
            raise MalformedStream("The padding of a file is not zeros", "something is hidden there", _RESEND)

    def _exactly(self, count: int) -> bytes:
        data, done = bytearray(count), 0
        with memoryview(data) as view:
            while done < count:
                done += self.take_into(view[done:])
        return bytes(data)

    def take_into(self, view: memoryview, *, may_end: bool = False) -> int:
        """Read some bytes into `view`, and say how many. Raises StreamCut at an end that may not be there."""
        try:
            count = os.readv(self._descriptor, [view])
        except OSError as error:
            raise unreadable(str(self.path), error) from None
        if not count and not self._begun:
            raise StreamCut(
                "Nothing arrived on standard input" if self.path == STDIN else f"{self.path} is empty",
                "whoever was to send the stream ended without a byte, as age does when it has the wrong key",
                "Look at what the sender said, above or on its side; then run it again",
            )
        if not count and not may_end:
            raise StreamCut("The stream ends early", "it was cut off on its way", _RESEND)
        self._begun = True
        return count


class _Member(io.RawIOBase):
    """The bytes of one file inside the stream, until the stream goes on to the next one."""

    def __init__(self, stream: TarStream, length: int) -> None:
        super().__init__()
        self._take_into, self.length, self.left = stream.take_into, length, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        with memoryview(buffer) as view:
            count = min(len(view), self.left)
            if count:
                count = self._take_into(view[:count])
        self.left -= count
        return count


def open_stream(path: Path) -> TarStream:
    """The stream in a file, or on standard input for `-`. Raises NotFound, MalformedStream or MediaUnreadable."""
    try:
        descriptor = os.dup(0) if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"There is no bundle at {path}", error.strerror or "unknown", "Check the path") from None
    if os.isatty(descriptor):
        os.close(descriptor)
        raise NotFound(
            "Standard input is a terminal",
            "a bundle's stream was expected there",
            "Pipe one in, for example with age -d",
        )
    return TarStream(descriptor, path)


def _may_precede(name: str) -> bool:
    """Whether a part of this name may come between metadata and payload."""
    try:
        check_evidence_path(name)
    except UnsafeName:
        return _BLOB.fullmatch(name) is not None
    return True


def _check_place(name: str, length: int, part: Part) -> None:
    if (name, length) != (part.name, part.length):
        raise MalformedStream(
            f"{name} ({length} bytes) does not belong here",
            f"at this place the stream must have {part.name} ({part.length} bytes)",
            _RESEND,
        )


def _unlisted(name: str, length: int) -> MalformedStream:
    return MalformedStream(f"{name} ({length} bytes) does not belong here", "no signed list names it there", _RESEND)
