"""``plugsky bundle evidence``: the files beside a bundle's content, listed or taken out for a reviewer."""

from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.bundle_options import BaseOption, MediaArgument, PinOption, asking, identity, look
from plugsky.cli.options import RootOption, TrustOption, path
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.core.commands import given
from plugsky_bundles import evidence as evidence_files
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import ExistsError, NotFound
from plugsky_bundles.media import open_media
from plugsky_bundles.sizes import size

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evidence(
    bundle: MediaArgument,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    base: BaseOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=path, metavar="DIR", help="Take the files out, into this new or empty folder."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List a bundle's evidence, or take it out: every file is compared with the digest that was sealed.

    Of a bundle that is older than what the site (--root) has accepted too, with a warning.

    Software and model lists, licence texts, provenance, known vulnerabilities, custody and the documentation;
    docs/evidence.md says what each claims and how to check it with standard tools.

    Example: plugsky bundle evidence /media/usb/plugsky-demo-1 --pin 3f2a… --out review
    """
    command = ("bundle", "evidence", bundle, *given(pin=pin, trust=trust, root=root, base=base, out=out))
    verified, refusal = look(open_media(bundle, asking(*command)), pin, trust, root, base)
    if out is not None:
        _check_empty(out)
    listing = sorted(verified.evidence.items())
    for name, _ in listing:
        data = evidence_files.read(verified, name)
        if out is not None:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(out / name, data)
    if as_json:
        files = [{"path": name, "length": listed.length, "sha256": listed.sha256} for name, listed in listing]
        tell_json(
            "plugsky.bundle.evidence/1", {**identity(verified), "refused_here": refusal, "out": out, "evidence": files}
        )
        return
    if out is not None:
        tell(f"{out}: {len(listing)} files, each the one that was sealed")
        return
    table(("file", "size", "sha256"), [(name, size(listed.length), listed.sha256) for name, listed in listing])
    say(f"{len(listing)} files, each the one that was sealed")


def _check_empty(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise NotFound(f"{out} is not a folder", "it is a file", "Name another folder")
    if out.is_dir() and any(out.iterdir()):
        raise ExistsError(f"{out} is not empty", "files of another bundle could lie there", "Name another folder")
