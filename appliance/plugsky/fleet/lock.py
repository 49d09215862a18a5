"""One change of a site at a time: what is looked at under the lock is still so when the change is made."""

from contextlib import AbstractContextManager
from pathlib import Path

from plugsky_bundles.locks import locked


def site_lock(root: Path) -> AbstractContextManager[None]:
    """The lock of the site at ``root``, to hold in a ``with``. Raises Busy at once when someone else holds it."""
    return locked(root, f"The site {root} is being changed", "another install or activation is running")
