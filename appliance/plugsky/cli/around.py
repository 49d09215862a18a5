"""How a command that moves ``current`` does it here: on a host that serves with everything that follows, else alone."""

from functools import partial

from plugsky.cli import host_gate
from plugsky.core.paths import SitePaths
from plugsky.fleet.host_switch import HostSwitch, is_provisioned
from plugsky.fleet.switching import Around
from plugsky_bundles.progress import Progress


def around_of(paths: SitePaths, progress: Progress) -> Around | None:
    """What is to happen around the step on this site; nothing on one that no units serve."""
    return HostSwitch(paths, partial(host_gate.answers, paths), progress) if is_provisioned(paths) else None
