"""Builds from the cache alone: what a recipe would have to fetch is named, all at once, before anything is done.

The cache then refuses every connection by itself (`Cache.going_out`), should this list have missed one.
"""

from __future__ import annotations

from plugsky_builder import sources, wheels
from plugsky_builder.cache import Cache
from plugsky_builder.debs import parts
from plugsky_builder.recipe import Recipe
from plugsky_bundles.errors import NotCached


def require(recipe: Recipe, cache: Cache) -> None:
    """Raises NotCached, naming everything that is missing; NotFound or RecipeError for a lock that cannot be read."""
    lacks = missing(recipe, cache)
    if lacks:
        raise NotCached(
            f"The cache {cache.root} is not enough to build {recipe.channel} offline",
            f"it lacks {', '.join(lacks)}",
            "Run the build once with a network, without --offline",
        )


def missing(recipe: Recipe, cache: Cache) -> list[str]:
    """What the recipe needs and the cache lacks, for people, in the recipe's order."""
    lacks = [
        f"{source.name} of {model.id}"
        for model in recipe.models
        for source in (*model.files, model.licence_text)
        if not sources.is_obtainable(source, cache)
    ]
    if recipe.python is not None:
        for target in recipe.targets or (None,):
            lacks += wheels.missing(recipe.python, cache, target)
    if recipe.debs is not None:
        for target in recipe.targets:
            if count := parts.missing(recipe.debs, target, cache):
                lacks.append(f"{count} Debian files for {target.folder}")
    return lacks
