"""Gets the files that a recipe names into the cache, each pinned by SHA-256.

A file that is already cached is not fetched again; whether its bytes are still right is checked when it is packed, and
a damaged copy is then forgotten and fetched anew (`heal`).
"""

from __future__ import annotations

from pathlib import Path

from plugsky_builder import https, hugging_face, pypi
from plugsky_builder.cache import Cache
from plugsky_builder.file_sources import FileSource, HttpsFile, HuggingFaceFile, LocalFile, PypiFile
from plugsky_bundles.errors import NotFound
from plugsky_bundles.progress import Progress


def obtain(source: FileSource, cache: Cache, progress: Progress) -> Path:
    """A path to the file's bytes. Raises NotFound, SourceError and its kinds, DigestMismatch or NoSpace."""
    match source:
        case LocalFile():
            if not source.path.is_file():
                raise NotFound(f"{source.path} is not there", "the recipe names it", "Check the path in the recipe")
            return source.path
        case PypiFile():
            return pypi.fetch(source, cache, progress)
        case HuggingFaceFile():
            return hugging_face.fetch(source, cache, progress)
        case HttpsFile():
            if not cache.has(source.sha256):
                wanted = https.Wanted(source.url, source.sha256, source.size, source.name)
                return https.fetch(wanted, cache, progress)
            return cache.file(source.sha256)


def is_obtainable(source: FileSource, cache: Cache) -> bool:
    """Whether `obtain` needs no network."""
    match source:
        case LocalFile():
            return True
        case PypiFile():
            return pypi.is_obtainable(source, cache)
        case HuggingFaceFile():
            return hugging_face.is_cached(source, cache)
        case HttpsFile():
            return cache.has(source.sha256)


def facts(source: FileSource, cache: Cache) -> dict[str, str]:
    """What is known of an obtained file beside its bytes: its origin, and what its publisher says of its use."""
    known = hugging_face.terms(source, cache) if isinstance(source, HuggingFaceFile) else {}
    return {"origin": source.origin, **known}
