"""A model made inside the facility -> a generation that has it; and the way back.

1. under the lock of the site: an enrolled approver's statement for exactly this model counts, nothing of it is revoked,
   and its id is free;
2. the file is copied into the store, hashed while it is copied; its form and its templates are checked on the copy;
3. a generation like the current one is made, with the model;
4. it is checked, the model becomes one of the site's own, the trail records it, and ``current`` moves to it. From then
   on every generation that is made has the model.

A model that does not work here is not taken on: its generation stays, inactive and marked. An interruption between any
two steps is finished by running the same command again. Removing goes the same way, with a generation without it.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from plugsky.audit import events
from plugsky.audit.events import Event
from plugsky.audit.trail import newest_commit
from plugsky.core.paths import SitePaths
from plugsky.fleet import enrolled, generations, local_models, rebuilding, site_trust, switching
from plugsky.fleet.generations import Generation
from plugsky.fleet.health import Verdict
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky.fleet.local_models import LocalModel
from plugsky.fleet.lock import site_lock
from plugsky.fleet.removal import remove_generation
from plugsky.fleet.switching import Trail
from plugsky.fleet.taking_in import blocks_of, opened, take_in
from plugsky.models import catalogue, local
from plugsky.models.local import Statement
from plugsky_bundles.errors import (
    DigestMismatch,
    ExistsError,
    HealthCheckFailed,
    InstallError,
    NoSpace,
    NotFound,
    Revoked,
)
from plugsky_bundles.format import CUSTODY, MIB, FileEntry
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.sizes import shortage
from plugsky_bundles.state import Revocations

MARGIN: Final = 64 * MIB
LICENCE: Final = "LICENSE"


@dataclass(frozen=True)
class Offered:
    """What is to be imported: the file, what an approver signed for it, and its licence text where there is one."""

    file: Path
    approval: bytes
    licence: bytes | None


def import_model(
    paths: SitePaths,
    offered: Offered,
    model_id: str,
    site_keyid: str,
    trail: Trail,
    actor: str,
    *,
    progress: Progress = silent,
) -> tuple[Generation, Statement]:
    """Import a model in the order above. ``site_keyid`` is that of the site's own key, which may not approve.

    Raises NotApproved, Revoked, ExistsError, DigestMismatch, GgufError, NoSpace, HealthCheckFailed or Busy.
    """
    with sigterm_interrupts(), site_lock(_existing(paths)):
        current, revocations = _state(paths)
        importers = enrolled.installers()
        statement = local.approved(offered.approval, enrolled.load(paths), revocations.keys, importers, site_keyid)
        _check(paths, current, statement, offered, model_id, revocations)
        files = _bring(paths, statement, offered, progress)
        others = _others(paths, revocations, model_id)
        generation = rebuilding.like(paths, current, (*others, *files), progress=progress)
        record = partial(_event, events.MODEL_IMPORT, actor, generation, model_id, statement.entry.sha256, statement.by)
        settle = partial(local_models.add, paths, LocalModel(model_id, files), offered.approval)
        _switch(paths, generation, revocations, trail, record, settle, progress)
        return generation, statement


def remove_model(
    paths: SitePaths, model_id: str, trail: Trail, actor: str, *, progress: Progress = silent
) -> Generation:
    """Make a generation without that model of the facility, and forget the model. Raises NotFound, and as above."""
    with sigterm_interrupts(), site_lock(_existing(paths)):
        current, revocations = _state(paths)
        known = {model.id for model in local_models.found(paths)} | set(current.local_ids)
        if model_id not in known:
            raise NotFound(
                f"The site has no model {model_id!r} of its own",
                f"imported were {', '.join(sorted(known)) or 'none'}",
                "A model that a bundle brought goes with the next bundle",
            )
        name = f"models/{model_id}/{local.file_name(model_id)}"
        digest = next((entry.sha256 for entry in current.local if entry.path == name), "")
        others = _others(paths, revocations, model_id)
        generation = rebuilding.like(paths, current, others, progress=progress)
        record = partial(_event, events.MODEL_REMOVE, actor, generation, model_id, digest, "")
        settle = partial(local_models.remove, paths, model_id)
        _switch(paths, generation, revocations, trail, record, settle, progress)
        return generation


def _existing(paths: SitePaths) -> Path:
    if not paths.current.is_symlink():
        raise NotFound(f"There is no site at {paths.root}", "nothing is installed", "Run `plugsky bundle install`")
    return paths.root


def _state(paths: SitePaths) -> tuple[Generation, Revocations]:
    """The current generation, and what the site knows to be revoked."""
    current, believed = generations.current(paths), site_trust.load(paths)
    if current is None or believed is None:
        raise InstallError(
            f"The site {paths.root} cannot be changed",
            "it has no current generation or no trust state",
            "Install its bundle again, or restore the site from the backup",
        )
    return current, believed.revocations


def _others(paths: SitePaths, revocations: Revocations, model_id: str) -> tuple[FileEntry, ...]:
    """The files of the facility's other models."""
    carried = local_models.carried(paths, revocations)
    return tuple(entry for entry in carried if entry.path.split("/")[1] != model_id)


def _check(
    paths: SitePaths,
    current: Generation,
    statement: Statement,
    offered: Offered,
    model_id: str,
    revocations: Revocations,
) -> None:
    """Everything that can be said before the first write."""
    entry = statement.entry
    if entry.id != model_id:
        raise DigestMismatch(
            "The approval is for another model", f"it names {entry.id!r}, not {model_id!r}", "Give the id it names"
        )
    if entry.sha256 in revocations.digests:
        raise Revoked(f"The model {model_id} has been revoked", f"{entry.sha256} is on the list", "Use another one")
    licence = "" if offered.licence is None else hashlib.sha256(offered.licence).hexdigest()
    if licence != statement.licence_sha256:
        raise DigestMismatch(
            "The licence text is not the approved one",
            f"its SHA-256 is {licence or 'missing'}, approved was {statement.licence_sha256 or 'none'}",
            "Give the text that the approver saw with --licence-text",
        )
    if model_id in {there.id for there in catalogue.models(paths, current.number)}:
        raise ExistsError(
            f"The site has a model {model_id!r} already",
            "it was imported before" if model_id in current.local_ids else "its bundle brought it",
            "Choose another id, or remove an imported one with `plugsky model remove`",
        )
    room = os.statvfs(paths.root)
    free, need = room.f_bavail * room.f_frsize, entry.size + MARGIN
    if need > free:
        why = shortage(need, free, f"in {paths.root}")
        raise NoSpace("The model does not fit", why, "Free some space there; `plugsky generation prune` may")


def _bring(paths: SitePaths, statement: Statement, offered: Offered, progress: Progress) -> tuple[FileEntry, ...]:
    """Put the files of a model into the store, checked."""
    entry, folder = statement.entry, f"models/{statement.entry.id}"
    weights = FileEntry(f"{folder}/{local.file_name(entry.id)}", entry.size, entry.sha256)
    with opened(offered.file) as source:
        take_in(
            paths, blocks_of(source, offered.file), weights, progress, lambda copy: local.check_copy(copy, statement)
        )
    files = [weights]
    for name, content in ((catalogue.ENTRY, statement.entry_json), (LICENCE, offered.licence)):
        if content is not None:
            files.append(FileEntry(f"{folder}/{name}", len(content), hashlib.sha256(content).hexdigest()))
            take_in(paths, [content], files[-1], progress)
    return tuple(files)


def _switch(
    paths: SitePaths,
    generation: Generation,
    revocations: Revocations,
    trail: Trail,
    record: Callable[[Verdict], Event],
    settle: Callable[[], None],
    progress: Progress,
) -> None:
    """Switch to a generation made for this; one that came to nothing for another reason than its health is removed."""
    try:
        switching.switch(paths, generation, revocations, trail, record, settle=settle, progress=progress)
    except HealthCheckFailed:
        raise
    except BaseException:
        if generations.current_number(paths) != generation.number:
            with suppress(OSError):
                remove_generation(paths.generations, generation.number)
        raise


def _event(
    action: str, actor: str, generation: Generation, model_id: str, sha256: str, by: str, verdict: Verdict
) -> Event:
    """What the trail keeps of a model that came or went."""
    custody = newest_commit(generation.path / CUSTODY)
    return events.local_model(
        action,
        actor,
        model=model_id,
        sha256=sha256,
        approved_by=by,
        generation=generation.number,
        bundle_id=generation.bundle_id,
        content_id=generation.content_id,
        custody_head=custody.hash if custody else "",
        health=verdict.summary,
        healthy=not verdict.failed,
    )
