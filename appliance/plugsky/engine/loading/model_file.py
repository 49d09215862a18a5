"""What is asked of a model's files on disk: that they are sound GGUF files, and the ones that were installed.

A model is one file or several parts, of which the first is named; llama.cpp finds the others beside it.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky_bundles import gguf, split_model
from plugsky_bundles.errors import BundleError
from plugsky_bundles.gguf import GgufInfo

CHUNK: Final = 8 << 20
"""Bytes hashed between two looks at who else wants to run: Python's other threads wait for none of them."""
_REPAIR: Final = "plugsky bundle install --repair, with the bundle it came with"
_REINSTALL: Final = "plugsky bundle verify BUNDLE, then plugsky bundle install BUNDLE"


def check_file(file: Path) -> tuple[GgufInfo, ...]:
    """Refuse what llama.cpp should never map, also among the other parts of a split model whose first is ``file``.

    What the files say of themselves, in the order of the parts.

    Raises :class:`EngineError`: ``model_not_found`` when a file is missing, ``tampered`` when one is no GGUF file, a
    damaged one or of another model, ``internal`` when it cannot be read.
    """
    files = _files(file)
    headers = tuple(_header(part) for part in files)
    try:
        split_model.check_set([part.name for part in files], headers)
    except BundleError as error:
        raise _unsound(file, error) from error
    return headers


def check_digest(file: Path, digest: str, progress: Callable[[float], bool]) -> None:
    """Refuse a model, ``file`` or its first part, whose digest is not ``digest`` (hex).

    ``progress`` gets fractions from 0 to 1 and gives False to stop. Raises :class:`EngineError`: ``tampered``;
    ``cancelled`` when ``progress`` says stop; ``internal`` when a file cannot be read.
    """
    chunk = memoryview(bytearray(CHUNK))
    digests = []
    done, part = 0, file
    try:
        files = _files(file)
        size = sum(part.stat().st_size for part in files)
        for part in files:
            sha256 = hashlib.sha256()
            with part.open("rb", buffering=0) as stream:
                while count := stream.readinto(chunk):
                    sha256.update(chunk[:count])
                    done += count
                    if not progress(min(1.0, done / max(size, 1))):
                        raise EngineError(ErrorKind.CANCELLED, f"loading {file.name} was stopped")
            digests.append(sha256.hexdigest())
    except OSError as error:
        raise _unreadable(part, error) from error
    found = split_model.digest_of(digests)
    if not hmac.compare_digest(found.encode(), digest.encode()):
        raise EngineError(
            ErrorKind.TAMPERED,
            f"the file {file.name} is not the one that was installed",
            why=f"its SHA-256 is {found}, installed was {digest}",
            next=_REPAIR,
        )


def _files(first: Path) -> tuple[Path, ...]:
    """Every file of a model: llama.cpp finds the parts of a split one beside the first, by their names."""
    try:
        return tuple(first.with_name(name) for name in split_model.part_names(first.name))
    except BundleError as error:
        raise _unsound(first, error) from error


def _header(file: Path) -> GgufInfo:
    try:
        with file.open("rb") as stream:
            return gguf.read(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError:
        raise EngineError(
            ErrorKind.MODEL_NOT_FOUND, f"the file {file.name} is missing", why=str(file.parent), next=_REINSTALL
        ) from None
    except OSError as error:
        raise _unreadable(file, error) from error
    except BundleError as error:
        raise _unsound(file, error) from error


def _unsound(file: Path, error: BundleError) -> EngineError:
    return EngineError(
        ErrorKind.TAMPERED, f"{file.name} is no sound GGUF file: {error.what}", why=error.why, next=_REINSTALL
    )


def _unreadable(file: Path, error: OSError) -> EngineError:
    return EngineError(ErrorKind.INTERNAL, f"the file {file.name} cannot be read", why=error.strerror or str(error))
