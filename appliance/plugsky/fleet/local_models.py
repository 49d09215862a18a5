"""Models made inside the facility: no bundle brought them, an approver signed for them.

Their files lie in the store like all others; ``local/<id>/`` says which they are and holds the approval. Every
generation that is made links them beside what its bundle brings, so they outlive the bundle that was current when they
came. One whose digest was revoked stays behind.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.core.paths import SitePaths
from plugsky_bundles import strict_json
from plugsky_bundles.atomic import sync_directory, write_file
from plugsky_bundles.errors import ExistsError, MalformedMetadata
from plugsky_bundles.format import FileEntry, check_target_path, is_sha256
from plugsky_bundles.state import Revocations

SCHEMA: Final = "plugsky.local/1"
LIST: Final = "local.json"
APPROVAL: Final = "approval.json"
MAX_LIST: Final = 1 << 20


@dataclass(frozen=True)
class LocalModel:
    """One of them, its files as a generation has them (``models/<id>/<name>``)."""

    id: str
    files: tuple[FileEntry, ...]


def found(paths: SitePaths) -> tuple[LocalModel, ...]:
    """All of them by id. Raises MalformedMetadata for one that cannot be read: it must not get lost unnoticed."""
    if not paths.local.is_dir():
        return ()
    return tuple(_read(folder) for folder in sorted(paths.local.iterdir()) if (folder / LIST).is_file())


def carried(paths: SitePaths, revocations: Revocations) -> tuple[FileEntry, ...]:
    """The files that the next generation links: of every one of them that was not revoked."""
    return tuple(
        entry
        for model in found(paths)
        if revocations.digests.isdisjoint(entry.sha256 for entry in model.files)
        for entry in model.files
    )


def digests(paths: SitePaths) -> frozenset[str]:
    """The digests of all their files."""
    return frozenset(entry.sha256 for model in found(paths) for entry in model.files)


def check_names(entries: Iterable[FileEntry], paths: Iterable[str]) -> None:
    """Refuse a bundle with these ``paths`` that brings a model under the id of a local one. Raises ExistsError."""
    local = {entry.path.split("/")[1] for entry in entries}
    for path in paths:
        role, _, rest = path.partition("/")
        if role == "models" and (model := rest.partition("/")[0]) in local:
            raise ExistsError(
                f"The bundle brings a model {model!r}, and so does this site",
                "the one of this site was imported, and two models cannot have one id",
                f"Remove the site's with `plugsky model remove {model}`",
            )


def add(paths: SitePaths, model: LocalModel, approval: bytes) -> None:
    """Make a model one of the site's own; its files must be in the store. The list is written last."""
    folder = paths.local / model.id
    paths.local.mkdir(mode=0o750, exist_ok=True)
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    write_file(folder / APPROVAL, approval, mode=0o440)
    files = [{"path": entry.path, "length": entry.length, "sha256": entry.sha256} for entry in model.files]
    content = strict_json.encode({"schema": SCHEMA, "id": model.id, "files": files})
    write_file(folder / LIST, content, mode=0o440)
    sync_directory(paths.local)


def remove(paths: SitePaths, model_id: str) -> None:
    """Forget a model; its files stay in the store until nothing needs them and it is pruned."""
    folder = paths.local / model_id
    (folder / LIST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    if paths.local.is_dir():
        sync_directory(paths.local)


def _read(folder: Path) -> LocalModel:
    with (folder / LIST).open("rb") as file:
        values = strict_json.parse_object(file.read(MAX_LIST + 1), str(folder / LIST), limit=MAX_LIST)
    if set(values) != {"schema", "id", "files"} or values["schema"] != SCHEMA or values["id"] != folder.name:
        raise _damaged(folder)
    try:
        entries = tuple(FileEntry(file["path"], file["length"], file["sha256"]) for file in values["files"])
    except (KeyError, TypeError):
        raise _damaged(folder) from None
    for entry in entries:
        check_target_path(entry.path)
        in_place = entry.path.rpartition("/")[0] == f"models/{folder.name}"
        if not in_place or not is_sha256(entry.sha256) or type(entry.length) is not int:
            raise _damaged(folder)
    return LocalModel(folder.name, entries)


def _damaged(folder: Path) -> MalformedMetadata:
    return strict_json.malformed(f"{folder / LIST}", f"it is not the {SCHEMA} of {folder.name}")
