"""``plugsky bundle build|seal``: recipe -> draft -> sealed."""

import dataclasses
import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from plugsky.cli.bundle_options import BundleArgument
from plugsky.cli.options import PassphraseFile, TrustOption, passphrase, path, trust_directory
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, size, tell, tell_json
from plugsky.core import settings
from plugsky.core.commands import command_line, given
from plugsky.core.paths import checkout
from plugsky_bundles import sealing

WHEELHOUSE: Final = Path(".cache/wheels")

app = typer.Typer(rich_markup_mode=None)


@app.command()
def build(
    recipe: Annotated[
        Path, typer.Argument(parser=path, metavar="RECIPE", help="The recipe (TOML): what the bundle holds.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path, metavar="PATH", help="Where the bundle's directory goes, for example a mounted stick."
        ),
    ],
    trust: TrustOption = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", parser=path, metavar="PATH", help="Where downloads are kept.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option("--wheelhouse", parser=path, metavar="PATH", help="A folder with compiled wheels.")
    ] = None,
    require_rehearsal: Annotated[
        bool, typer.Option("--require-rehearsal", help="Fail where the installation cannot be rehearsed.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Obtain everything a recipe names, check it, and write a bundle that waits for signatures.

    The same recipe and lock give the same content id; a bundle that is there already is left alone. Before it is
    written, its installation is rehearsed where there is no network. The passphrase is asked for only where a
    repository of Debian packages is to be signed.

    Example: plugsky bundle build bundles/recipes/demo.toml --out /media/usb --trust /secure/trust
    """
    # A site need not have the builder, nor what it imports: only this command does.
    from plugsky_builder import build as building
    from plugsky_builder import recipe as recipes

    chosen = settings.load({"cache": cache, "wheelhouse": wheelhouse}).values
    built = building.build(
        recipes.load(recipe),
        out,
        trust_directory(trust),
        cache=chosen.cache,
        wheelhouse=chosen.wheelhouse or (checkout() or chosen.cache) / WHEELHOUSE,
        now=datetime.now(UTC),
        passphrase=functools.cache(lambda: passphrase(passphrase_file)),
        require_rehearsal=require_rehearsal,
        progress=progress(progress_style),
    )
    state = "sealed" if built.sealed else "draft"
    if as_json:
        tell_json("plugsky.bundle.build/1", {**dataclasses.asdict(built), "state": state})
        return
    tell(f"{built.path}: {built.files} files, {size(built.bytes)}, content {built.content_id}")
    if built.unchanged:
        say("It was there already with the same content; nothing was written.")
    for why in built.not_rehearsed:
        say(f"warning: the installation was not rehearsed: {why}")
    if not built.sealed:
        say(f"next: {command_line('trust', 'sign', built.path, *given(trust=trust))}")


@app.command()
def seal(
    bundle: BundleArgument,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Seal a signed bundle: snapshot and timestamp. Refuses below the threshold of signatures.

    Example: plugsky bundle seal /media/usb/plugsky-demo-1 --trust /secure/trust
    """
    sealed = sealing.seal(bundle, trust_directory(trust), passphrase(passphrase_file), datetime.now(UTC))
    if as_json:
        tell_json("plugsky.bundle.seal/1", dataclasses.asdict(sealed))
        return
    tell(f"{sealed.path}: sealed as bundle {sealed.bundle_id}")
    say(f"next: carry it to the site, with root {sealed.root_fingerprint} on paper")
