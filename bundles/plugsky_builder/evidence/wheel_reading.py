"""What a wheel says of itself and the licence texts that it carries, read without unpacking it.

The wheel has passed `wheel_lint`, so every reader sees the same archive. Licence texts are the files below its
`.dist-info/licenses/` (PEP 639), those that `License-File` names, and those beside METADATA that have a licence's usual
name. Bounded: 1 MiB of METADATA and of each text, 200 texts, 16 MiB together.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from plugsky_builder.evidence import licence_terms
from plugsky_builder.evidence.licence_terms import Terms
from plugsky_bundles.errors import WheelError
from plugsky_bundles.format import MIB

MAX_TEXT: Final = MIB
MAX_TEXTS: Final = 200
MAX_TOGETHER: Final = 16 * MIB
_USUAL: Final = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS|COPYRIGHT)[^/]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """A wheel's name, version and terms, what it needs, and its licence texts by their name in it."""

    name: str
    version: str
    terms: Terms
    requires: tuple[Requirement, ...]
    texts: dict[str, bytes]


def read(path: Path, file: str) -> WheelFacts:
    """Read the wheel at `path`, called `file`. Raises WheelError for one that is damaged or beyond the bounds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, StopIteration, ValueError) as error:
        raise WheelError(f"{file} cannot be read", str(error) or "it has no METADATA", "Run it again") from error


def _read(archive: zipfile.ZipFile) -> WheelFacts:
    files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    metadata = next(name for name in sorted(files) if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
    folder = metadata.removesuffix("METADATA")
    about = HeaderParser().parsestr(_content(archive, files[metadata]).decode("utf-8", "replace"))
    named = {f"{folder}{name}" for name in about.get_all("License-File", [])}
    found = [name for name in sorted(files) if name in named or _is_text(name, folder)][:MAX_TEXTS]
    if sum(files[name].file_size for name in found) > MAX_TOGETHER:
        raise ValueError(f"its licence texts have more than {MAX_TOGETHER} bytes")
    return WheelFacts(
        about.get("Name", ""),
        about.get("Version", ""),
        licence_terms.of_wheel(about),
        tuple(Requirement(text) for text in about.get_all("Requires-Dist", [])),
        {name.removeprefix(folder): _content(archive, files[name]) for name in found},
    )


def _is_text(name: str, folder: str) -> bool:
    rest = name.removeprefix(folder)
    return name.startswith(folder) and (rest.startswith("licenses/") or _USUAL.fullmatch(rest) is not None)


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MAX_TEXT:
        raise ValueError(f"{info.filename} has {info.file_size} bytes, the limit is {MAX_TEXT}")
    with archive.open(info) as file:
        return file.read(MAX_TEXT)
