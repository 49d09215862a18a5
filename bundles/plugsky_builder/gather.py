"""Recipe -> materials: every file of the bundle, obtained, checked and named, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plugsky_builder import assets, model_parts, wheels
from plugsky_builder.cache import Cache
from plugsky_builder.pack import Material
from plugsky_builder.recipe import Recipe
from plugsky_builder.targets import LOCK_NAME, Target
from plugsky_builder.wheels import Wheel
from plugsky_bundles.format import REVOCATIONS, check_target_paths
from plugsky_bundles.progress import Progress
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode

CHANNEL_POLICY: Final = "policy/channel.json"
CHANNEL_POLICY_SCHEMA: Final = "plugsky.channel-policy/1"


def gather(recipe: Recipe, wheelhouse: Path, cache: Cache, progress: Progress) -> list[Material]:
    """Every file of the bundle, in the order of their paths."""
    materials: list[Material] = []
    for model in recipe.models:
        materials += model_parts.gather(model, cache, progress)
    if recipe.python is not None:
        own = wheels.appliance(recipe.python, wheelhouse, cache, progress)
        for target in recipe.targets or (None,):
            found = wheels.gather(recipe.python, wheelhouse, cache, progress, target, own)
            materials += _python(found, target)
    materials += [
        Material.of_bytes(f"playbooks/{name}", content) for name, content in assets.playbooks(recipe.playbooks)
    ]
    policy = {"schema": CHANNEL_POLICY_SCHEMA, "channel": recipe.channel, "title": recipe.title}
    materials.append(Material.of_bytes(CHANNEL_POLICY, encode(policy)))
    materials.append(Material.of_bytes(REVOCATIONS, Revocations().to_json()))
    check_target_paths(material.path for material in materials)
    return sorted(materials, key=lambda material: material.path)


def _python(found: list[Wheel], target: Target | None) -> list[Material]:
    """The wheels for one target and their lock, in the target's folder; without a target right below `python/`."""
    folder = f"python/{target.folder}" if target is not None else "python"
    facts = target.facts() if target is not None else wheels.target_facts()
    return [
        *(
            Material(f"{folder}/{wheel.file}", wheel.path, wheel.length, wheel.sha256, None, wheel.facts())
            for wheel in found
        ),
        Material.of_bytes(f"{folder}/{LOCK_NAME}", wheels.travelling_lock(found), facts),
    ]
