"""Encrypted copies of a bundle: its tar stream (`plugsky_bundles.streaming`) in the format of age, version 1.

Through pyrage, in pieces of 64 KiB: memory does not grow with the bundle. What reads it is the plain `age -d`, whose
output goes into `plugsky bundle install -`; Plugsky never holds the key that decrypts. Encryption hides what a bundle
holds from whoever finds the medium, save its length. It proves nothing about who made it: the signatures do, inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import pyrage
from pyrage import ssh, x25519

from plugsky_bundles import streaming
from plugsky_bundles.errors import BadRecipient, KeyUnusable
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.verified import VerifiedBundle

PIECE: Final = 64 * 1024
TAG: Final = 16
HEADER: Final = 4096


def encrypt(verified: VerifiedBundle, recipients: Iterable[str], out: BinaryIO, progress: Progress = silent) -> None:
    """Write the encrypted stream.

    Raises BadRecipient, what `streaming.stream` raises, and OSError of `out`.
    """
    readers = [_recipient(text) for text in recipients]
    source, sink = _Source(streaming.stream(verified, progress)), _Sink(out)
    try:
        pyrage.encrypt_io(source, sink, readers)
    except pyrage.EncryptError as error:
        # It carries words only; what happened at either end was kept there.
        raise source.error or sink.error or KeyUnusable("Encrypting failed", str(error), "Run it again") from error


def save(verified: VerifiedBundle, recipients: list[str], path: Path, progress: Progress = silent) -> None:
    """Write the encrypted stream to a file, whole or not at all. Raises what `encrypt` and `streaming.save` raise."""
    length = encrypted_length(verified, len(recipients))
    streaming.save(lambda file: encrypt(verified, recipients, file, progress), length, path)


def encrypted_length(verified: VerifiedBundle, recipients: int) -> int:
    """The length of the encrypted stream in bytes, or a little more."""
    plain = streaming.stream_length(verified)
    return plain + (plain // PIECE + 1) * TAG + HEADER * (recipients + 1)


def check_recipients(recipients: Iterable[str]) -> None:
    """Refuse what is no recipient, before anything is done. Raises BadRecipient."""
    for text in recipients:
        _recipient(text)


def _recipient(text: str) -> x25519.Recipient | ssh.Recipient:
    try:
        return ssh.Recipient.from_str(text) if text.startswith("ssh-") else x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise BadRecipient(
            f"{text!r} is no recipient of age", str(error), "Give one that begins with age1 (`age-keygen -y KEYFILE`)"
        ) from None


class _Source:
    """Blocks as a file to read from."""

    def __init__(self, blocks: Iterator[bytes | memoryview]) -> None:
        self._blocks, self._rest = blocks, memoryview(b"")
        self.error: Exception | None = None

    def read(self, count: int) -> bytes:
        try:
            while not self._rest:
                if (block := next(self._blocks, None)) is None:
                    return b""
                self._rest = memoryview(bytes(block))
        except Exception as error:
            self.error = error
            raise
        piece, self._rest = self._rest[:count], self._rest[count:]
        return bytes(piece)


class _Sink:
    """A file to write to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except Exception as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
