"""Where what goes back to the operator lies: `plugsky-returns/` beside a bundle, outside what its seal covers.

Receipts, approvals and custody logs lie there. Anyone can put anything there: each is worth what its signature is
worth, and nothing is believed for lying there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

RETURNS: Final = "plugsky-returns"


def returns_of(bundle: Path) -> Path:
    """The directory beside a bundle, which need not exist."""
    return bundle.absolute().parent / RETURNS
