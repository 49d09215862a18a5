"""Files of Plugsky itself that a bundle carries: from the source tree, or from the installed wheel.

The wheel holds `playbooks/` and `bundles/recipes/` of the tree as package data, so both ways give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import plugsky
from plugsky_builder.own_wheel import checkout
from plugsky_bundles.errors import NotFound, RecipeError


def directory(name: str) -> Path:
    """The directory of that name: `playbooks`, `recipes` or `locks`."""
    tree = checkout()
    if tree is None:
        found = Path(plugsky.__file__).parent / "_data" / name
    else:
        found = tree / name if name == "playbooks" else tree / "bundles" / name
    if not found.is_dir():
        raise NotFound(f"Plugsky's {name} are missing", f"{found} is not there", "Install Plugsky again")
    return found


def playbooks(patterns: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """The playbooks that match one of the patterns of a recipe, by their path below `playbooks`, sorted."""
    base = directory("playbooks") if patterns else Path()
    found: dict[str, bytes] = {}
    for pattern in patterns:
        matches = [path for path in base.glob(pattern) if path.is_file() and not path.name.startswith(".")]
        if not matches:
            raise RecipeError(f"No playbook matches {pattern!r}", f"{base} has none", "Correct the recipe")
        found |= {str(path.relative_to(base)): path.read_bytes() for path in matches}
    return sorted(found.items())
