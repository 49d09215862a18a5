"""A model of the site -> plain files that any other software reads: nobody is locked in.

Written are the model's GGUF under the name that it came with, ``model.json``, ``LICENSE`` where there is one, and
``SHA256SUMS`` for ``sha256sum -c``. Every file is hashed while it is copied and compared with what was signed; a model
that came in parts is joined (:mod:`plugsky_bundles.gguf_join`). The trail has its record
first. Nothing that is there is ever overwritten, and what turns out to be wrong leaves nothing behind. ``SHA256SUMS``
comes last: where it is, all is there. No hard links and no long names are needed, so a stick with FAT will do.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from plugsky.audit import events
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations
from plugsky.fleet.switching import Trail
from plugsky.models import catalogue
from plugsky.models.catalogue import ModelEntry
from plugsky_bundles import gguf
from plugsky_bundles.atomic import out_of_space, sync_directory
from plugsky_bundles.errors import DigestMismatch, ExistsError, NotFound
from plugsky_bundles.gguf_join import joined
from plugsky_bundles.progress import Progress, ProgressEvent, silent

BLOCK: Final = 1024 * 1024
SUMS: Final = "SHA256SUMS"
_PART = re.compile(r"-00001-of-[0-9]{5}\.gguf$", re.ASCII)


@dataclass(frozen=True)
class Exported:
    """The files that were written, by name, with their digests; and whether the model's were joined."""

    files: dict[str, str]
    joined: bool


class _Copy:
    """The files of one export, each made anew under its name; all gone again where one is not right."""

    def __init__(self, out: Path, total: int, progress: Progress) -> None:
        self._out, self._total, self._progress = out, total, progress
        self._done = 0
        self._made: list[Path] = []
        self.digests: dict[str, str] = {}

    def write(self, name: str, blocks: Iterable[bytes]) -> str:
        """Write one file; its digest. Raises ExistsError."""
        digest = hashlib.sha256()
        try:
            file = (self._out / name).open("xb")
        except FileExistsError:
            raise _exists(self._out / name) from None
        with file:
            self._made.append(self._out / name)
            for block in blocks:
                digest.update(block)
                file.write(block)
                self._done += len(block)
                self._progress(ProgressEvent("export", min(self._done, self._total), self._total, name))
            file.flush()
            os.fsync(file.fileno())
        self.digests[name] = digest.hexdigest()
        return self.digests[name]

    def discard(self) -> None:
        """Remove every file that this export made."""
        for path in self._made:
            path.unlink(missing_ok=True)


def export_model(
    paths: SitePaths, model_id: str, out: Path, trail: Trail, actor: str, *, progress: Progress = silent
) -> Exported:
    """Write the model of the current generation into the directory ``out``, which is made where it is missing.

    Raises PlugskyError MODEL_NOT_FOUND, ExistsError, DigestMismatch for a damaged file, NoSpace or OSError.
    """
    current = generations.current(paths)
    if current is None:
        raise NotFound(f"There is no site at {paths.root}", "nothing is installed", "Run `plugsky bundle install`")
    entry = catalogue.find(paths, model_id)
    signed = {path: digest for digest, path in current.digests.items()} | current.files
    folder = f"models/{model_id}"
    others = sorted(
        path.rpartition("/")[2]
        for path in signed
        if path.startswith(f"{folder}/") and path.rpartition("/")[2] not in {file.path.name for file in entry.files}
    )
    name = _PART.sub(".gguf", entry.path.name) if entry.parts else entry.path.name
    out.mkdir(parents=True, exist_ok=True)
    for wanted in (name, *others, SUMS):
        if os.path.lexists(out / wanted):
            raise _exists(out / wanted)
    with trail() as log:
        log.record(*events.model_export(actor, model=model_id, sha256=entry.sha256, generation=current.number))
    copy = _Copy(out, entry.size, progress)
    try:
        with out_of_space(out):
            _weights(copy, name, entry)
            for other in others:
                with (current.path / folder / other).open("rb") as file:
                    _compare(other, copy.write(other, _blocks(file)), signed[f"{folder}/{other}"])
            files = dict(copy.digests)
            sums = "".join(f"{digest}  {written}\n" for written, digest in sorted(files.items()))
            copy.write(SUMS, [sums.encode("ascii")])
            sync_directory(out)
    except BaseException:
        copy.discard()
        raise
    return Exported(files, bool(entry.parts))


def _weights(copy: _Copy, name: str, entry: ModelEntry) -> None:
    """The model's file, or its parts as one; every part is compared with what was signed."""
    if not entry.parts:
        with entry.path.open("rb") as file:
            _compare(name, copy.write(name, _blocks(file)), entry.sha256)
        return
    with ExitStack() as stack:
        parts = []
        for part in entry.parts:
            with part.path.open("rb") as file:
                _compare(part.path.name, hashlib.file_digest(file, "sha256").hexdigest(), part.sha256)
            file = stack.enter_context(part.path.open("rb"))
            info = gguf.read(file, part.size)
            file.seek(0)
            parts.append((file, info))
        copy.write(name, joined(parts))


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _compare(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise DigestMismatch(
            f"{name} is not the file that was installed",
            f"its SHA-256 is {found}, installed was {expected}",
            "Repair the site with `plugsky bundle install --repair`, then export again",
        )


def _exists(path: Path) -> ExistsError:
    return ExistsError(f"{path} is there already", "an export overwrites nothing", "Choose another --out")
