"""The copyright files of Debian packages, read out of the packages and remembered by the digest of each.

A package has `/usr/share/doc/NAME/copyright`, or that folder is a link to the one of another package that is made from
the same source (Debian policy 12.3 and 12.5); then the text is found there. A text is kept in the builder's cache by
its own digest, because reading a package means to unpack it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from plugsky_builder.cache import Cache
from plugsky_builder.debs import archive
from plugsky_bundles.format import MIB

MAX_TEXT: Final = 4 * MIB
_TEXT: Final = re.compile(r"usr/share/doc/([^/]+)/copyright")
_FOLDER: Final = re.compile(r"usr/share/doc/([^/]+)")


class Copyrights:
    """The copyright texts of the packages of one target, by package; `add` each of them, then ask."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._texts: dict[str, str] = {}
        self._links: dict[str, str] = {}

    def add(self, path: Path, sha256: str, file: str) -> None:
        """Read the package at `path`, whose SHA-256 is that. Raises SourceError, DigestMismatch or NoSpace."""
        known = self._remembered(sha256)
        if known is None:
            known = self._read(path, file)
            self._cache.keep_note(f"copyright-{sha256}", known)
        self._texts |= known["texts"]
        self._links |= known["links"]

    def of(self, package: str) -> dict[str, bytes]:
        """The texts of a package by their path; none where it has none."""
        for name in (package, self._links.get(package, "")):
            if (digest := self._texts.get(name)) is not None:
                return {f"usr/share/doc/{name}/copyright": self._cache.file(digest).read_bytes()}
        return {}

    def _remembered(self, sha256: str) -> Mapping[str, Any] | None:
        known = self._cache.note(f"copyright-{sha256}")
        if not isinstance(known, dict) or known.keys() != {"links", "texts"}:
            return None
        return known if all(self._cache.is_sound(digest) for digest in known["texts"].values()) else None

    def _read(self, path: Path, file: str) -> Mapping[str, Any]:
        texts: dict[str, str] = {}
        links: dict[str, str] = {}
        for member in archive.read_some(path, file, lambda name: _TEXT.fullmatch(name) is not None, MAX_TEXT):
            if member.content is not None and (match := _TEXT.fullmatch(member.name)) and member.content:
                digest = hashlib.sha256(member.content).hexdigest()
                self._cache.receive(io.BytesIO(member.content), digest, MAX_TEXT, file, lambda _: None)
                texts[match[1]] = digest
            elif member.link and (match := _FOLDER.fullmatch(member.name)) and "/" not in member.link:
                links[match[1]] = member.link
        return {"links": links, "texts": texts}
