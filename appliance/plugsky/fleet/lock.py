"""One change of a site at a time: what is looked at under the lock is still so when the change is made."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from plugsky_bundles.locks import locked

CHILDREN_END_S: Final = 20.0
"""Seconds in which the children of an installation that was killed have ended: the kernel kills them with it."""


def site_lock(root: Path) -> AbstractContextManager[int]:
    """The lock of the site at ``root``, to hold in a ``with``. Raises Busy at once when someone else holds it."""
    return locked(root, f"The site {root} is being changed", "another install or activation is running")


def writers_lock(generations: Path) -> AbstractContextManager[int]:
    """Held by whoever writes into a generation, children included: they inherit the descriptor that it gives.

    Waits for the children of an installation that was killed. Raises Busy when they do not end.
    """
    what = f"Generations in {generations} are still written to"
    return locked(generations, what, "a child of an earlier installation runs on", patience_s=CHILDREN_END_S)
