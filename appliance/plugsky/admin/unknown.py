"""What the Home screen shows of a part of the site that cannot be read: nothing made up, and a duty that says why."""

import platform
from typing import Final

from plugsky import __version__
from plugsky.admin.api import Duty, Host, Identity, Isolation
from plugsky.core.clock import Clock, rfc3339
from plugsky.core.errors import PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles.errors import BundleError

HOST: Final = Host(None, None, None, None, None)
ISOLATION: Final = Isolation(
    proven=False,
    engine_namespace=False,
    listening=(),
    outbound=(),
    default_route=False,
    findings=("the isolation could not be read",),
)


def identity(paths: SitePaths, clock: Clock) -> Identity:
    """What is known of a site without reading any of its files."""
    return Identity(platform.node(), __version__, str(paths.root), "", 0, "", "", rfc3339(clock.now()))


def duty(part: str, error: PlugskyError | BundleError | OSError) -> Duty:
    """That ``part`` could not be read, why, and what to do."""
    if isinstance(error, OSError):
        return Duty(f"unread-{part}", "alarm", f"the {part} of the site cannot be read: {error.strerror}", "")
    why = f"{error.what}: {error.why}" if error.why else error.what
    return Duty(f"unread-{part}", "alarm", f"the {part} of the site cannot be read: {why}", error.next)
