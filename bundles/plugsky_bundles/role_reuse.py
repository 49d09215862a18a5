"""Role files that are taken over from the last sealed bundle, so that people sign only what changed.

A role file is taken over byte for byte, with its version, dates and signatures, when
1. it lists exactly the files that the new bundle has of that role: path, length, digest, custom data, chunk list;
2. every signature on it is one by a targets key of the root that counts now and fits, and without those of revoked
   keys there are still as many as the threshold;
3. it stays valid long enough: for at least `SHARE` of the time for which a new file would be valid.

Targets is always made anew: its version is that of the bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from tuf.api.metadata import Metadata, Root, Targets

from plugsky_bundles.errors import VerificationError
from plugsky_bundles.format import ROLES, FileEntry
from plugsky_bundles.kept import Kept
from plugsky_bundles.metadata import count_signatures

SHARE: Final = 0.5


def enough(now: datetime, expires: datetime) -> datetime:
    """The date until which a role file must be valid to be taken over by a bundle that expires at `expires`."""
    return now + (expires - now) * SHARE


def taken_over(
    kept: Kept, root: Root, entries: Iterable[FileEntry], *, until: datetime, revoked: frozenset[str] = frozenset()
) -> dict[str, bytes]:
    """The role files of `kept` that a bundle with these entries takes over, by role.

    `entries` may come without chunks: a file with the digest that it had keeps its chunks. `revoked`: keyids.
    """
    wanted: dict[str, dict[str, tuple[Any, ...]]] = {role: {} for role in ROLES}
    for entry in entries:
        wanted[entry.role][entry.path] = _content(entry)
    had: dict[str, dict[str, tuple[Any, ...]]] = {role: {} for role in ROLES}
    for entry in kept.entries.values():
        had[entry.role][entry.path] = _content(entry)
    return {
        role: kept.files[role]
        for role in ROLES
        if wanted[role] == had[role]
        and kept.roles[role].signed.expires >= until
        and signed_well(kept.roles[role], root, role, revoked)
    }


def signed_well(metadata: Metadata[Targets], root: Root, role: str, revoked: frozenset[str]) -> bool:
    """Whether people who may sign now signed it, and enough of them without the `revoked` keys."""
    try:
        signers = count_signatures([root], "targets", metadata, role)
    except VerificationError:
        return False
    return len(set(signers) - revoked) >= root.roles["targets"].threshold


def as_before(entry: FileEntry, kept: Kept | None) -> FileEntry | None:
    """`entry` with the chunks that a file with its digest had in `kept`, under the same path; None when it is new."""
    before = None if kept is None else kept.entries.get(entry.path)
    if before is None or (before.sha256, before.length) != (entry.sha256, entry.length):
        return None
    return dataclasses.replace(entry, chunks=before.chunks)


def _content(entry: FileEntry) -> tuple[Any, ...]:
    custom: Mapping[str, Any] = {key: value for key, value in entry.custom.items() if key != "chunks"}
    return entry.length, entry.sha256, custom
