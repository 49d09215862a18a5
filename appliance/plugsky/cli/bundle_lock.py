"""``plugsky bundle lock``: resolve the packages of a recipe, Debian's and Python's, and write down what they are."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.options import path
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, tell, tell_json
from plugsky.core import settings
from plugsky_bundles.sizes import size

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def lock(
    recipe: Annotated[
        Path, typer.Argument(parser=path, metavar="RECIPE", help="The recipe (TOML) whose packages are resolved.")
    ],
    cache: Annotated[
        Path | None, typer.Option("--cache", parser=path, metavar="PATH", help="Where downloads are kept.")
    ] = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Resolve the Debian packages and the Python requirements of a recipe for each target, and write their locks.

    Debian's signatures are checked; a lock whose answer stays the same is left alone. Review what changes like code:
    a build takes exactly these packages, by SHA-256.

    Example: plugsky bundle lock recipes/riyadh.toml
    """
    # A site need not have the builder, nor what it imports.
    from plugsky_builder import python_locks
    from plugsky_builder import recipe as recipes
    from plugsky_builder.debs import renewal

    chosen = settings.load({"cache": cache}).values
    loaded, watch = recipes.load(recipe), progress(progress_style)
    python = python_locks.renew(loaded, watch)
    debs = renewal.renew(loaded, chosen.cache, now=datetime.now(UTC), progress=watch)
    renewed: list[python_locks.Renewed | renewal.Renewed] = [*python, *debs]
    if as_json:
        tell_json(
            "plugsky.bundle.lock/1",
            {"locks": [{**dataclasses.asdict(one), "path": str(one.path), "changed": one.changed} for one in renewed]},
        )
        return
    for one in renewed:
        state = f"{len(one.added)} new, {len(one.removed)} gone" if one.changed else "unchanged"
        large = f", {size(one.bytes)}" if isinstance(one, renewal.Renewed) else ""
        tell(f"{one.path}: {one.packages} packages{large}, {state}")
        for sign, pins in (("+", one.added), ("-", one.removed)):
            for pin in pins:
                say(f"  {sign} {pin}")
    if not renewed:
        say("The recipe has neither [debs] nor requirements, so there is nothing to lock.")
