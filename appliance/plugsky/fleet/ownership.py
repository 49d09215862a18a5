"""A site's directories are its owner's alone: what was verified there must still be there when it is used.

Whoever can write to one of them could swap a file between the two. So before anything is put there, each that exists
must be a directory and no link to one, of the user who installs or of root, and writable to nobody else. Staging is
made private when it is used (:mod:`plugsky_bundles.staging`), and what lies in it is hashed again.
"""

import os
import stat

from plugsky.core.paths import SitePaths
from plugsky_bundles.errors import SiteExposed


def check_own(paths: SitePaths) -> None:
    """Refuse a site that somebody else can change. Raises SiteExposed or OSError."""
    for folder in (paths.root, paths.generations, paths.store, paths.trust, paths.local):
        try:
            found = folder.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise SiteExposed(
                f"{folder} is no directory of its own", "it is a link or a file", "Name the directory it leads to"
            )
        if found.st_uid not in (0, os.geteuid()):
            raise SiteExposed(
                f"{folder} belongs to user {found.st_uid}",
                "who owns it could change what runs here",
                "Run it as its owner",
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SiteExposed(
                f"Others can write to {folder}",
                "they could change what runs here",
                f"Run: chmod go-w {folder}; after a look at what lies there",
            )
