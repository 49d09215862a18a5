"""``plugsky bundle``: recipe -> draft -> signed -> sealed -> verified -> plan -> generation.

The commands live in the modules named here, one per step of a bundle's way.
"""

import typer

from plugsky.cli import (
    bundle_approve,
    bundle_build,
    bundle_carry,
    bundle_delta,
    bundle_evidence,
    bundle_install,
    bundle_lock,
    bundle_look,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Build, seal, inspect, verify and install bundles.",
)
for step in (
    bundle_lock,
    bundle_build,
    bundle_look,
    bundle_evidence,
    bundle_delta,
    bundle_carry,
    bundle_approve,
    bundle_install,
):
    app.add_typer(step.app)
