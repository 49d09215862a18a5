"""The site's own line in the custody of a bundle: that it was installed here, signed with the site's key.

It is kept in the site's ``returns/custody/``, and left beside the media where that can be written, for the operator.
What others recorded lies on the media, where anyone could have changed it: an installation does not depend on it, and
``plugsky custody show`` judges it.
"""

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from plugsky.audit.site_key import site_key
from plugsky.core.paths import SitePaths
from plugsky_bundles import custody, custody_review
from plugsky_bundles.errors import CustodyDoubt, UnsafeName
from plugsky_bundles.returns import returns_of
from plugsky_bundles.verified import VerifiedBundle


def installed(paths: SitePaths, verified: VerifiedBundle, generation: int, now: datetime) -> Path:
    """Record that ``verified`` became generation ``generation`` of this site. Raises what the chain's writer raises."""
    own = _own(paths)
    beside = returns_of(verified.bundle.path) / custody.FOLDER
    details = {"site": os.uname().nodename, "generation": str(generation)}
    path = custody.record(own, verified, site_key(paths), custody_review.BY_SITE, "bundle.install", now, details)
    with suppress(OSError, CustodyDoubt, UnsafeName):  # read-only or gone, or something else lies there under that name
        if verified.bundle.path.exists():
            custody.carry(own, beside, verified)
    return path


def complete(paths: SitePaths, verified: VerifiedBundle, generation: int, now: datetime) -> None:
    """Record what an interruption kept :func:`installed` from recording; nothing where it is there."""
    keyid = site_key(paths).public_key.keyid
    if not (_own(paths) / custody.file_name(verified, keyid)).exists():
        installed(paths, verified, generation, now)


def _own(paths: SitePaths) -> Path:
    return paths.returns / custody.FOLDER
