"""Which floors a new root makes void, so that a site recovers from a fast-forward (TUF 1.0.31, section 5.3.11). Pure.

Whoever has the keys of the build machine can drive its versions up to the largest there is, and every right bundle is
then a rollback. The way out is a root that takes those keys away: it makes the floors of timestamp and snapshot void.
The floors of targets and its roles stand on the keys of people, and fall only where that root takes one of theirs
away as well; so a build machine that is replaced never lets releases go back. Adding a key makes nothing void.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import Root

from plugsky_bundles.metadata import read_metadata

_MACHINE = frozenset({"timestamp", "snapshot"})


def voided(old: bytes, new: bytes) -> frozenset[str]:
    """The top-level roles whose floors under root `old` are void under root `new`; with "targets", its roles' too."""
    if old == new:
        return frozenset()
    before, after = (read_metadata(data, Root, "A trusted root").signed for data in (old, new))
    taken = {name for name in _MACHINE | {"targets"} if set(before.roles[name].keyids) - set(after.roles[name].keyids)}
    if not taken & _MACHINE:
        return frozenset()
    return _MACHINE | (taken & {"targets"})


def remaining(versions: Mapping[str, int], void: frozenset[str]) -> dict[str, int]:
    """The versions of a floor that still count."""
    return {
        role: version
        for role, version in versions.items()
        if role not in void and not ("targets" in void and role not in _MACHINE)
    }
