"""Takes out of a delta, when it is sealed, the metadata that it leaves out.

A draft of a delta holds all role files and chunk lists, so that signers see what they sign. What sealing takes away is
found from the draft's note alone: first the chunk lists, then the role files that name them, the note last. So what an
interruption left is finished by doing it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tuf.api.metadata import Targets

from plugsky_bundles.atomic import write_file
from plugsky_bundles.drafting import DRAFT_SINCE, draft_since
from plugsky_bundles.entries import absence
from plugsky_bundles.format import MAX_TARGETS_METADATA, METADATA, ROLES, blob_path
from plugsky_bundles.media import Bundle
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.trusted_copies import NO_COPIES

_ROLE_FILES: Final = tuple(f".{role}.json" for role in ROLES)


def take_out(bundle: Bundle, taken: dict[str, bytes]) -> None:
    """Remove what the note of `bundle` says, if it has one; `taken` gets each file's bytes before it goes."""
    since = draft_since(bundle)
    if since is None:
        return
    listed = absence(bundle, since, NO_COPIES).listed
    here, elsewhere, role_files = set[str](), set[str](), list[str]()
    for name in bundle.files:
        if name.startswith(f"{METADATA}/") and name.endswith(_ROLE_FILES):
            role = name.removesuffix(".json").rpartition(".")[2]
            digests = _blobs(bundle, name)
            if role in since.roles:
                role_files.append(name)
                elsewhere |= digests
            else:
                here |= digests
    gone = sorted(blob_path(digest) for digest in (elsewhere - here) | listed)
    for name in (*(name for name in gone if name in bundle.files), *sorted(role_files), DRAFT_SINCE):
        taken[name] = bundle.read(name, limit=bundle.files[name])
        path = bundle.path / name
        path.unlink()
        while (path := path.parent) != bundle.path and not any(path.iterdir()):
            path.rmdir()


def put_back(bundle_dir: Path, taken: dict[str, bytes]) -> None:
    """Undo `take_out`: the note first, so that an interruption leaves a draft."""
    for name, data in reversed(taken.items()):
        (bundle_dir / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(bundle_dir / name, data)


def _blobs(bundle: Bundle, name: str) -> set[str]:
    """The chunk lists and the whole-file blobs that a role file names."""
    targets = read_metadata(bundle.read(name, limit=MAX_TARGETS_METADATA), Targets, name).signed.targets
    lists = {target.custom["chunks"]["sha256"] for target in targets.values() if "chunks" in (target.custom or {})}
    return lists | {target.hashes["sha256"] for target in targets.values() if "chunks" not in (target.custom or {})}
