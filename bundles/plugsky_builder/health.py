"""What a model makes of a fixed text on the build machine, to be signed with it and compared on every site.

The builder's own engine measures, in a process of its own that has no network and may crash alone
(:mod:`plugsky.models.measuring`). A model that llama.cpp cannot load, that answers nothing or whose weights give no
number fails here, in the build room, instead of behind the gap. What was measured is remembered by the digest of the
model, the version of llama-cpp-python and the text, so a second build computes nothing.
A recipe may say `health = false` for a model that the build machine cannot hold; a site then asks of it only that it
loads and answers. So it does of models that embed or rerank, which are asked that here, too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from plugsky.core.settings import physical_cores
from plugsky.engine.known_text import TEXT
from plugsky.models import measuring
from plugsky.models.measuring import DoesNotFit
from plugsky_builder.cache import Cache
from plugsky_bundles.errors import DigestMismatch, SourceError
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.sizes import shortage

ENGINE: Final = "llama-cpp-python"


def signed(
    model_id: str, mode: str, files: Mapping[str, Path], digests: tuple[str, ...], cache: Cache, progress: Progress
) -> dict[str, Any] | None:
    """The member `health` of the catalogue entry; None for a mode without a measure.

    `files` are the parts of the model by their names, in order, and `digests` theirs. Raises GgufError for a model
    that does not work, DigestMismatch for a file that is another one, SourceError where memory is too small.
    """
    text = hashlib.sha256(TEXT.read_bytes()).hexdigest()
    whole = hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else digests[0]
    note = f"health-{whole}-{mode}-{importlib.metadata.version(ENGINE)}-{text[:16]}"
    known = cache.note(note)
    if isinstance(known, dict) and "health" in known:
        found: dict[str, Any] | None = known["health"]
        return found
    for (name, path), digest in zip(files.items(), digests, strict=True):
        _check(name, path, digest, cache)
    outcome = _measure(model_id, mode, files, progress)
    if isinstance(outcome, DoesNotFit):
        raise SourceError(
            f"The model {model_id} does not fit into the memory of this machine, so it cannot be measured",
            shortage(outcome.need, outcome.have),
            "Build on a larger machine, or add `health = false` to the model: sites then ask only that it answers",
        )
    health = measuring.health_of(model_id, mode, outcome)
    cache.keep_note(note, {"health": health})
    return health


def _check(name: str, path: Path, digest: str, cache: Cache) -> None:
    """A measurement is remembered under the digest, so it must be that of these bytes."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        cache.discard(digest)
        raise DigestMismatch(
            f"{name} is not what the recipe pins",
            f"SHA-256 {found}, not {digest}",
            "Check the hash in the recipe, or run it again if the file came from the cache",
        )


def _measure(model_id: str, mode: str, files: Mapping[str, Path], progress: Progress) -> measuring.Outcome:
    """Measure a model under the names of its parts: llama.cpp finds the parts of a split one by them."""

    def told(percent: int) -> None:
        progress(ProgressEvent("measure", percent, 100, model_id))

    with tempfile.TemporaryDirectory(prefix="plugsky-measure-") as folder:
        for name, path in files.items():
            (Path(folder) / name).symlink_to(path.absolute())
        first = Path(folder) / next(iter(files))
        limit = measuring.patience_s(sum(path.stat().st_size for path in files.values()))
        outcome = measuring.measure(Path(sys.executable), first, mode, physical_cores(), told, limit)
    told(100)
    return outcome
