"""The builder's cache: whole files by SHA-256, and notes about what a lookup gave last time.

`files/sha256-<hex>` holds bytes that had that digest when they were put in; `notes/<name>.json` holds answers of an
index for one exact question. Nothing here is trusted: whoever packs a cached file hashes it again and calls `discard`
when it differs. Work in progress lies in `work/` and can be resumed or deleted at any time. An `offline` cache is all
that a build may use: whoever would open a connection asks `going_out` first, and is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from plugsky_bundles.atomic import out_of_space, write_file
from plugsky_bundles.errors import DigestMismatch, NotCached

BLOCK: Final = 1024 * 1024


class Cache:
    """The cache below `root`, made on first use."""

    def __init__(self, root: Path, *, offline: bool = False) -> None:
        self.root = root
        self.offline = offline
        self.forgotten = 0
        with out_of_space(root):
            for name in ("files", "notes", "work"):
                (root / name).mkdir(parents=True, exist_ok=True)

    def file(self, sha256: str) -> Path:
        """Where the file with that digest is or would be."""
        return self.root / "files" / f"sha256-{sha256}"

    def has(self, sha256: str) -> bool:
        return self.file(sha256).is_file()

    def going_out(self, what: str) -> None:
        """To be called before any connection is opened to get `what`. Raises NotCached when none may be."""
        if self.offline:
            raise NotCached(f"{what} is not in the cache", "the build is offline", "Run the build once with a network")

    def is_sound(self, sha256: str) -> bool:
        """Whether the file with that digest is there and still has it; a damaged one is forgotten."""
        try:
            with self.file(sha256).open("rb") as file:
                sound = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False
        if not sound:
            self.discard(sha256)
        return sound

    def discard(self, sha256: str) -> None:
        """Forget a file that turned out to be damaged; `forgotten` counts them."""
        with suppress(FileNotFoundError):
            self.file(sha256).unlink()
            self.forgotten += 1

    def adopt(self, path: Path) -> str:
        """Move a finished file of the work directory in; returns its digest."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path.replace(self.file(digest))
        return digest

    def keep(self, path: Path, sha256: str) -> Path:
        """Move a file of the work directory in whose digest its writer has just found to be that."""
        path.replace(self.file(sha256))
        return self.file(sha256)

    def receive(self, stream: IO[bytes], sha256: str, limit: int, what: str, moved: Callable[[int], None]) -> Path:
        """Copy at most `limit` bytes of `stream` in and refuse any digest but `sha256`; `moved` hears of each block."""
        part = self.root / "work" / f"{sha256}.part"
        digest = hashlib.sha256()
        done = 0
        try:
            with out_of_space(part), part.open("wb") as out:
                while block := stream.read(BLOCK):
                    done += len(block)
                    if done > limit:
                        raise DigestMismatch(f"{what} is longer than it says", f"more than {limit} bytes", _WRONG)
                    digest.update(block)
                    out.write(block)
                    moved(done)
            if digest.hexdigest() != sha256:
                raise DigestMismatch(
                    f"{what} is not what the recipe pins", f"SHA-256 {digest.hexdigest()}, not {sha256}", _WRONG
                )
            part.replace(self.file(sha256))
        finally:
            part.unlink(missing_ok=True)
        return self.file(sha256)

    def work(self, name: str) -> Path:
        """A directory for a piece of work that an interrupted build may take up again."""
        path = self.root / "work" / name
        path.mkdir(exist_ok=True)
        return path

    def drop_work(self, name: str) -> None:
        shutil.rmtree(self.root / "work" / name, ignore_errors=True)

    def note(self, name: str) -> Any | None:
        """The note of that name; None where there is none or it cannot be read."""
        try:
            return json.loads((self.root / "notes" / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def keep_note(self, name: str, content: Any) -> None:
        write_file(self.root / "notes" / f"{name}.json", json.dumps(content, indent=1).encode())


_WRONG: Final = "Check the hash in the recipe against the publisher's; if it is right, the source was tampered with"
