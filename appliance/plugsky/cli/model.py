"""``plugsky model``: the models of the site, out of it as plain files, and into it with an approver's word."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from plugsky.audit.site_key import site_key
from plugsky.cli.actor import actor
from plugsky.cli.administration import ask
from plugsky.cli.generation import tell_health, trail
from plugsky.cli.options import PassphraseFile, RootOption, existing_site, path
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, table, tell, tell_json
from plugsky.cli.trust_options import HsmOption, HsmPinFile, KeyNames, holder
from plugsky.core.settings import physical_cores
from plugsky.fleet import exporting, health, importing
from plugsky.fleet.importing import Offered
from plugsky.models import local, measuring
from plugsky.models.catalogue import MODES
from plugsky.models.measuring import DoesNotFit
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import ExistsError, UnsafeName
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.sizes import size


def model_id(text: str) -> str:
    """The id of a model that is made here, as an option."""
    try:
        return local.check_id(text)
    except UnsafeName as error:
        raise typer.BadParameter(f"{error.what}: {error.why}.") from None


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Show, export, approve, import and remove models of the site.",
)
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The model's id, as the list says it.")]
FileArgument = Annotated[Path, typer.Argument(parser=path, metavar="FILE", help="The model's GGUF file.")]
LicenceOption = Annotated[
    Path | None, typer.Option("--licence-text", parser=path, metavar="FILE", help="The text of its licence.")
]
MAX_LICENCE: Final = 1 << 20


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List the catalogue of the running generation and the state of each engine.

    FROM says whether a bundle brought a model or it was made here and imported (local).

    Example: plugsky model list --json
    """
    models = ask(root, lambda admin: admin.model_list())
    if as_json:
        tell_json("plugsky.model.list/1", {"models": msgspec.to_builtins(models)})
        return
    table(
        ("model", "mode", "state", "size", "context", "licence", "languages", "from", "problem"),
        [
            (
                m.id,
                m.mode,
                m.state,
                size(m.size),
                m.context,
                m.licence,
                ",".join(m.languages) or "-",
                "local" if m.local else "bundle",
                m.problem or "-",
            )
            for m in models
        ],
    )


@app.command("export")
def export_(
    model: IdArgument,
    out: Annotated[Path, typer.Option("--out", parser=path, metavar="DIR", help="The directory to write into.")],
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Write a model as plain files: its GGUF under the name it came with, model.json, LICENSE and SHA256SUMS.

    Every byte is compared with what was signed on the way; parts of a split model are joined. Nothing is overwritten.

    Example: plugsky model export smollm2-135m-instruct --out /media/usb/smollm2
    """
    paths = existing_site(root)
    done = exporting.export_model(paths, model, out, lambda: trail(paths), actor(), progress=progress(progress_style))
    if as_json:
        tell_json("plugsky.model.export/1", {"model": model, "out": str(out), "files": done.files})
        return
    for name in done.files:
        tell(str(out / name))
    say(f"check them anywhere with: sha256sum -c {exporting.SUMS}" + ("; the parts were joined" if done.joined else ""))


@app.command()
def approve(
    file: FileArgument,
    model: Annotated[str, typer.Option("--id", parser=model_id, metavar="ID", help="The id that it will have.")],
    context: Annotated[int, typer.Option("--context", min=1, help="Tokens that it was trained for.")],
    licence: Annotated[str, typer.Option("--licence", help="Its licence, as an SPDX expression or a short name.")],
    keys: Annotated[Path, typer.Option("--keys", parser=path, metavar="PATH", help="The directory of your own keys.")],
    key: KeyNames = None,
    title: Annotated[str | None, typer.Option("--title", help="What people call it. Default: its id.")] = None,
    mode: Annotated[str, typer.Option("--mode", help=f"One of {', '.join(MODES)}.")] = MODES[0],
    language: Annotated[list[str] | None, typer.Option("--language", help="A language it serves; repeatable.")] = None,
    homepage: Annotated[str, typer.Option("--homepage", help="Where it is described.")] = "-",
    licence_text: LicenceOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=path, metavar="FILE", help="Where to write it. Default: ID.local-model.json."),
    ] = None,
    hsm: HsmOption = None,
    hsm_pin_file: HsmPinFile = None,
    passphrase_file: PassphraseFile = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Look at a model that was made here, and sign that a site may import it.

    Its form and its templates are checked, it is loaded and must answer, and what it makes of a fixed text is signed
    with it, so that the site can compare. The name that the key is enrolled under must not be that of the account that
    imports, or of the login that this account came from: more is not compared.

    Example: plugsky model approve tuned.gguf --id tuned --context 8192 --licence Apache-2.0 --keys ~/plugsky-keys
    """
    if mode not in MODES:
        raise typer.BadParameter(f"{mode!r} is not one of {', '.join(MODES)}.", param_hint="--mode")
    target = out or Path(f"{model}.local-model.json")
    if target.exists():
        raise ExistsError(f"{target} is there already", "an approval overwrites nothing", "Choose another --out")
    shown = progress(progress_style)
    length = file.stat().st_size
    said = local.Description(model, title or model, mode, context, licence, tuple(language or ()), homepage)
    entry = local.describe(file, said, lambda done: shown(ProgressEvent("check", done, length, file.name)))
    entry |= _health(file, model, mode, shown)
    (card, signer), *_ = holder(keys, passphrase_file, hsm, hsm_pin_file).opened(None, key)
    write_file(target, local.approve(entry, _text(licence_text), signer, card.name, datetime.now(UTC)))
    if as_json:
        tell_json("plugsky.model.approve/1", {"approval": str(target), "by": card.name, "entry": entry})
        return
    tell(f"{target}: {model} is approved by {card.name}")
    say(f"It is {entry['sha256']}, {size(length)}, {entry['architecture']}, {entry['quantisation']}.")


@app.command("import")
def import_(
    file: FileArgument,
    model: Annotated[
        str, typer.Option("--id", parser=model_id, metavar="ID", help="Its id, as the approver signed it.")
    ],
    approval: Annotated[
        Path, typer.Option("--approval", parser=path, metavar="FILE", help="What an enrolled approver signed.")
    ],
    licence_text: LicenceOption = None,
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Take a model that was made in this facility into the site, with an approver's signature.

    The approver's enrolled name must not be that of this account, or of the login that it came from.
    A generation like the current one is made, with the model, checked, and made current. Every later bundle keeps it.

    Example: plugsky model import tuned.gguf --id tuned --approval tuned.local-model.json
    """
    paths = existing_site(root)
    offered = Offered(file, _read(approval, 2 * local.MAX_STATEMENT), _text(licence_text))
    own = site_key(paths).public_key.keyid
    generation, statement = importing.import_model(
        paths, offered, model, own, lambda: trail(paths), actor(), progress=progress(progress_style)
    )
    if as_json:
        body: dict[str, Any] = {"model": model, "sha256": statement.entry.sha256, "approved_by": statement.by}
        tell_json("plugsky.model.import/1", {**body, "generation": generation.number})
        return
    tell(f"{model} is a model of {paths.root}, approved by {statement.by}; generation {generation.number} is current")
    if (verdict := health.kept(generation.path)) is not None:
        tell_health(verdict)
    say("A site that is running serves it when it is started again.")


@app.command()
def remove(
    model: IdArgument,
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Remove an imported model: a generation like the current one without it becomes the current one.

    Its files stay in kept generations until these are pruned.

    Example: plugsky model remove tuned
    """
    paths = existing_site(root)
    generation = importing.remove_model(paths, model, lambda: trail(paths), actor(), progress=progress(progress_style))
    if as_json:
        tell_json("plugsky.model.remove/1", {"model": model, "generation": generation.number})
        return
    tell(f"{model} is no model of {paths.root} any more; generation {generation.number} is current")


def _health(file: Path, model: str, mode: str, shown: Progress) -> dict[str, Any]:
    """What the approver's own engine makes of the model, to be signed with it."""

    def told(percent: int) -> None:
        shown(ProgressEvent("measure", percent, 100, file.name))

    outcome = measuring.measure(Path(sys.executable), file, mode, physical_cores(), told)
    told(100)
    if isinstance(outcome, DoesNotFit):
        say(
            f"warning: it was not measured: it needs {size(outcome.need)} of memory, {size(outcome.have)} are free here"
        )
        return {}
    health = measuring.health_of(model, mode, outcome)
    return {} if health is None else {"health": health}


def _text(file: Path | None) -> bytes | None:
    return None if file is None else _read(file, MAX_LICENCE)


def _read(file: Path, limit: int) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise typer.BadParameter(f"{file} has more than {limit} bytes.")
    return content
