"""The playbooks that a bundle carries: those of the source tree, or the same bytes from the installed wheel."""

from __future__ import annotations

from pathlib import Path

from plugsky.core.paths import data_directory
from plugsky_bundles.errors import NotFound, RecipeError


def playbooks(patterns: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """The playbooks that match one of the patterns of a recipe, by their path below `playbooks`, sorted."""
    base = data_directory("playbooks") if patterns else Path()
    if not base.is_dir():
        raise NotFound("Plugsky's playbooks are missing", f"{base} is not there", "Install Plugsky again")
    found: dict[str, bytes] = {}
    for pattern in patterns:
        matches = [path for path in base.glob(pattern) if path.is_file() and not path.name.startswith(".")]
        if not matches:
            raise RecipeError(f"No playbook matches {pattern!r}", f"{base} has none", "Correct the recipe")
        found |= {str(path.relative_to(base)): path.read_bytes() for path in matches}
    return sorted(found.items())
