"""``plugsky bundle receipt|diff``: what a site holds, for its operator; what a bundle changes, for its approver."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plugsky.cli.bundle_options import BaseOption, PinOption, look, site_blobs_of
from plugsky.cli.options import RootOption, TrustOption, existing_site, path
from plugsky.cli.output import JsonFlag, say, tell, tell_json
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import receipts, site_trust
from plugsky_bundles import difference, receipt, sides
from plugsky_bundles.atomic import write_file
from plugsky_bundles.difference import Difference, Model, Package, Text
from plugsky_bundles.errors import UnsafeName
from plugsky_bundles.format import check_channel
from plugsky_bundles.media import open_bundle
from plugsky_bundles.sides import Side
from plugsky_bundles.sizes import size


def channel_name(text: str) -> str:
    """The name of a channel, as an option."""
    try:
        return check_channel(text)
    except UnsafeName as error:
        raise typer.BadParameter(f"{error.what}: {error.why}.") from None


_Seen = tuple[Side, str | None]
"""One side, and why the site would refuse to install it, if it would."""
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("receipt")
def receipt_command(
    root: RootOption = None,
    channel: Annotated[
        str | None,
        typer.Option("--channel", parser=channel_name, help="Of this channel; needed where the site has several."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", parser=path, metavar="DIR", help="Write it into this directory.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign what this site holds now, so that the operator can build a delta: `plugsky bundle build --since FILE`.

    An installation leaves such a receipt beside the bundle already, in plugsky-returns/. Without --out the receipt
    itself goes to standard output. The operator must have enrolled this site's key.

    Example: plugsky bundle receipt --root /var/lib/plugsky --out /media/usb
    """
    paths = existing_site(root)
    made, data = receipts.make(paths, _channel(paths, channel))
    written = None if out is None else out / receipt.file_name(made)
    if written is not None:
        write_file(written, data)
    if as_json:
        body = {
            "path": written,
            "site": made.site,
            "channel": made.channel,
            "version": made.version,
            "bundle_id": made.bundle_id,
            "generation": made.generation,
            "blobs": len(made.blobs),
        }
        tell_json("plugsky.bundle.receipt/1", body)
        return
    if written is None:
        sys.stdout.write(data.decode("ascii"))
        return
    tell(f"{written}")
    say(f"{made.channel} version {made.version}, {len(made.blobs)} blobs, signed by site {made.site}")
    build = command_line("bundle", "build", "RECIPE", "--out", "DIR", "--since", written)
    say(f"next: where bundles are built, {build}")


@app.command()
def diff(
    old: Annotated[
        Path,
        typer.Argument(parser=path, metavar="OLD", help="The earlier bundle; the only one, with --root."),
    ],
    new: Annotated[
        Path | None, typer.Argument(parser=path, metavar="[NEW]", help="The later bundle. Left out: OLD is it.")
    ] = None,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    base: BaseOption = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 when they differ.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what changes: models, chat templates, wheels, Debian packages, playbooks, licences, policy.

    Both sides are verified first, and only small parts of their payload are read. With one bundle and --root, it is
    compared with what that site holds of its channel. One that is older than what the site (--root) has accepted is
    compared too, with a warning. Ends with 0 whether they differ or not, unless --exit-code says
    otherwise.

    Example: plugsky bundle diff /media/usb/plugsky-demo-2 --root /var/lib/plugsky
    """
    (before, no_old), (after, no_new) = _sides(old, new, pin, trust, root, base)
    found = difference.compare(before, after)
    if as_json:
        sides_of = {"old": _identity(before, no_old), "new": _identity(after, no_new)}
        tell_json("plugsky.bundle.diff/1", {**sides_of, **_plain(found)})
    else:
        for line in _lines(before, after, found):
            tell(line)
    if exit_code and not found.same:
        raise typer.Exit(1)


def _sides(
    old: Path, new: Path | None, pin: str | None, trust: Path | None, root: Path | None, base: Path | None
) -> tuple[_Seen, _Seen]:
    if new is None:
        paths = existing_site(root)
        verified, refusal = look(open_bundle(old), pin, trust, root, base)
        held = receipts.held(paths, verified.channel)
        return (sides.of_site(held, paths.store, f"{paths.root}"), None), (_side(verified, root, base), refusal)
    earlier, later = open_bundle(old), open_bundle(new)
    before, no_old = look(earlier, pin, trust, root, base or new)
    after, no_new = look(later, pin, trust, root, base or old)
    return (_side(before, root, base or new), no_old), (_side(after, root, base or old), no_new)


def _side(verified: Any, root: Path | None, base: Path | None) -> Side:
    return sides.of_bundle(verified, *site_blobs_of(verified, root, base))


def _channel(paths: SitePaths, channel: str | None) -> str:
    if channel is not None:
        return channel
    believed = site_trust.load(paths)
    channels = [] if believed is None else sorted(believed.floors)
    if len(channels) == 1:
        return channels[0]
    raise PlugskyError(
        ErrorKind.BAD_REQUEST,
        f"The site has bundles of {len(channels)} channels.",
        why=f"a receipt is of one of them: {', '.join(channels)}",
        next="add --channel NAME",
    )


def _identity(side: Side, refusal: str | None) -> dict[str, Any]:
    names = ("name", "channel", "version", "bundle_id", "content_id")
    return {**{name: getattr(side, name) for name in names}, "refused_here": refusal}


def _plain(found: Difference) -> dict[str, Any]:
    return {
        "same": found.same,
        "models": [
            {
                "id": model.id,
                "change": model.change,
                "facts": {name: {"old": pair[0], "new": pair[1]} for name, pair in model.facts.items()},
                "templates": _texts(model.templates),
            }
            for model in found.models
        ],
        "licences": _texts(found.licences),
        "wheels": _packages(found.wheels),
        "debs": _packages(found.debs),
        "playbooks": _texts(found.playbooks),
        "policy": _texts(found.policy),
        "revoked": found.revoked.to_dict(),
        "unrevoked": found.unrevoked.to_dict(),
        "other": [{"path": where, "change": change} for where, change in found.other],
    }


def _texts(texts: tuple[Text, ...]) -> list[dict[str, Any]]:
    return [{"path": text.path, "diff": None if text.lines is None else list(text.lines)} for text in texts]


def _packages(packages: tuple[Package, ...]) -> list[dict[str, Any]]:
    return [{"where": one.where, "name": one.name, "old": one.old, "new": one.new} for one in packages]


def _lines(before: Side, after: Side, found: Difference) -> list[str]:
    """The difference for people, most important first."""
    lines = [
        f"old  {before.channel} version {before.version}  {before.bundle_id}  {before.name}",
        f"new  {after.channel} version {after.version}  {after.bundle_id}  {after.name}",
    ]
    if before.channel != after.channel:
        lines.append("they are of different channels")
    if found.same:
        return [*lines, "the content is the same"]
    for kind, revocations in (("revoked", found.revoked), ("NO LONGER revoked", found.unrevoked)):
        for what, digests in revocations.to_dict().items():
            lines += [f"{kind}  {what}  {digest}" for digest in digests]
    for model in found.models:
        lines += ["", *_model_lines(model)]
    for heading, texts in (("licence", found.licences), ("policy", found.policy), ("playbook", found.playbooks)):
        for text in texts:
            lines += ["", f"{heading} {text.path}", *_text_lines(text)]
    for heading, packages in (("wheels", found.wheels), ("Debian packages", found.debs)):
        if packages:
            lines += ["", heading, *map(_package_line, packages)]
    if found.other:
        lines += ["", "other files", *(f"  {change:8} {where}" for where, change in found.other)]
    return lines


def _model_lines(model: Model) -> list[str]:
    lines = [f"model {model.id}: {model.change}"]
    for name, (old, new) in model.facts.items():
        values = [("-" if value is None else size(value) if name == "size" else value) for value in (old, new)]
        lines.append(f"  {name:12} {values[0]} -> {values[1]}")
    for template in model.templates:
        lines += [f"  chat template {template.path}", *_text_lines(template)]
    return lines


def _text_lines(text: Text) -> list[str]:
    if text.lines is None:
        return ["    not shown: it is no text, too long, or not at hand"]
    return [f"    {line}" for line in text.lines]


def _package_line(package: Package) -> str:
    if package.old == package.new:
        return f"  {package.name} {package.new}: other bytes  ({package.where})"
    return f"  {package.name} {package.old or '-'} -> {package.new or '-'}  ({package.where})"
