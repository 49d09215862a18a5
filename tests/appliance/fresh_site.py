"""An empty site for each test, its database copied from one that was migrated once."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from plugsky.core.paths import SitePaths
from plugsky.state import Database, open_database


@cache
def _template() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    open_database(Path(folder.name) / "site.db").close()
    return folder


def fresh_database(path: Path) -> Database:
    """A migrated, empty database at ``path``."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        shutil.copyfile(Path(_template().name) / "site.db", path)
        path.chmod(0o600)
    return open_database(path)


def fresh_paths(root: Path) -> SitePaths:
    """The paths of a site under ``root``, sockets included, so that tests never meet each other's."""
    return SitePaths.at(root / "site", run=root / "run")
