"""``plugsky bundle verify|inspect``: who signed a bundle, what is in it, and whether every byte is as signed."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plugsky.cli.bundle_options import (
    BaseOption,
    MediaArgument,
    PinOption,
    asking,
    identity,
    judge,
    look,
    mendable,
    signed_by,
    site_blobs_of,
)
from plugsky.cli.custody import signed_by_holder
from plugsky.cli.options import PassphraseFile, RootOption, TrustOption
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, table, tell, tell_json
from plugsky.cli.trust_options import KeysOption
from plugsky.core.commands import given
from plugsky_bundles import custody as custody_log
from plugsky_bundles.errors import VolumeMissing
from plugsky_bundles.evidence import summarise
from plugsky_bundles.forward_read import read_parts, verify_forward
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import Directory, open_media
from plugsky_bundles.progress import Progress
from plugsky_bundles.returns import returns_of
from plugsky_bundles.sides import of_bundle
from plugsky_bundles.sizes import size
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.volumes import Volumes

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def verify(
    bundle: MediaArgument,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    base: BaseOption = None,
    this_volume: Annotated[
        bool, typer.Option("--this-volume", help="Of a split bundle, judge this one volume and no other.")
    ] = False,
    keys: KeysOption = None,
    passphrase_file: PassphraseFile = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Read every byte of a bundle and compare it with what trusted people signed.

    Trust comes from --pin (the fingerprint on paper), from the site (--root), or from the operator's --trust. Of a
    split bundle, all volumes are judged: those that are not beside this one are asked for. What is there is judged
    first, and only then what is not there is an error; with --this-volume it is none.

    A delta is judged with what the site (--root), the operator (--trust) or an earlier bundle (--base) has of the
    metadata that it leaves out; by the paper alone it is not. The bytes that it leaves out are the site's, and are
    compared when it is installed. With --keys, the holder signs into its custody log that every byte was compared.

    Example: plugsky bundle verify /media/usb/plugsky-demo-1 --pin 3f2a…
    """
    command = ("bundle", "verify", bundle, *given(pin=pin, trust=trust, root=root, base=base))
    media = open_media(bundle, asking(*command))
    shown = progress(progress_style)
    partly: tuple[str, ...] = ()
    with mendable(media, pin, trust, root):
        verified = judge(media, pin, trust, root, base)
        if isinstance(media, Volumes) and (this_volume or not sys.stdin.isatty()):
            judged = _verify_here(media, verified, shown, alone=this_volume)
        else:
            judged = None
        if judged is None:
            read = verify_payload if isinstance(media, Directory) else verify_forward
            partly = read(verified, shown)
    if judged is None:
        checks = [*verified.checks, "every byte on the media is the one that was signed"]
        if partly:
            checks.append(
                f"{len(partly)} files are not here, or not whole; their other bytes are the site's to compare"
            )
    else:
        checks = [*verified.checks, f"every byte of this volume is the one that was signed; {judged}"]
    volumes: list[tuple[int, Path]] = []
    if isinstance(media, Volumes):
        volumes = sorted(media.taken.items()) if judged is None else [(media.label.number, media.path)]
        checks += [
            f"volume {number} of {media.label.of}, at {place}: exactly its part, every byte as signed"
            for number, place in volumes
        ]
    details = {"read": judged or "every byte"}
    signed_by_holder(verified, returns_of(bundle) / custody_log.FOLDER, "bundle.verify", keys, passphrase_file, details)
    if as_json:
        body = {"verified": True, "whole": judged is None, **identity(verified), "checks": checks}
        places = [{"number": number, "path": str(place)} for number, place in volumes]
        tell_json("plugsky.bundle.verify/1", {**body, "volumes": places or None})
        return
    for check in checks:
        tell(f"ok  {check}")
    tell(f"verified: bundle {verified.bundle_id}" if judged is None else f"verified: {judged}")


@app.command()
def inspect(
    bundle: MediaArgument,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    base: BaseOption = None,
    files: Annotated[bool, typer.Option("--files", help="List every file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show who signed a bundle and what is inside, from its verified metadata; payloads are not read.

    One that is older than what the site (--root) has accepted is shown too, with a warning.

    Example: plugsky bundle inspect /media/usb/plugsky-demo-1 --root /var/lib/plugsky
    """
    verified, refusal = look(open_media(bundle), pin, trust, root, base)
    side = of_bundle(verified, *site_blobs_of(verified, root, base))
    found = {path: side.small(path) for path in verified.entries if path.endswith("/model.json")}
    models: list[dict[str, Any]] = [json.loads(raw) for raw in found.values() if raw is not None]
    unread = [path for path, raw in found.items() if raw is None]
    by_role = _by_role(verified)
    evidence = summarise(verified)
    if as_json:
        entries = [{"path": e.path, "length": e.length, "sha256": e.sha256} for e in verified.entries.values()]
        tell_json(
            "plugsky.bundle.inspect/1",
            {
                **identity(verified),
                "refused_here": refusal,
                "since": None if verified.since is None else verified.since.to_dict(),
                "absent": len(verified.absent),
                "models": models,
                "contents": by_role,
                "evidence": dataclasses.asdict(evidence),
                "files": entries,
            },
        )
        return
    tell(f"bundle   {verified.bundle_id}")
    tell(f"channel  {verified.channel}, version {verified.version}")
    tell(f"content  {verified.content_id}")
    tell(f"root     {verified.root_fingerprint}")
    tell(f"sealed   {verified.sealed_at:%Y-%m-%d %H:%M:%S} UTC, valid until {verified.expires:%Y-%m-%d}")
    if verified.since is not None:
        tell(f"since    {verified.since.bundle_id}: {len(verified.absent)} blobs are left to sites that have it")
    for line in signed_by(verified):
        tell(line)
    tell(f"evidence {evidence.text}")
    tell("")
    table(("contents", "files", "size"), [(role, part["files"], size(part["size"])) for role, part in by_role.items()])
    if models:
        tell("")
        table(
            ("model", "size", "quantisation", "context", "licence", "languages"),
            [
                (m["id"], size(m["size"]), m["quantisation"], m["context"], m["licence"], ",".join(m["languages"]))
                for m in models
            ],
        )
    for path in unread:
        tell(f"{path} is the site's; name it with --root to see that model")
    if files:
        tell("")
        table(
            ("file", "size", "sha256"),
            [(e.path, size(e.length), e.sha256) for _, e in sorted(verified.entries.items())],
        )


def _verify_here(media: Volumes, verified: VerifiedBundle, shown: Progress, *, alone: bool) -> str | None:
    """Judge one volume, or, when some are missing, all that are here, and then refuse; None when all are here.

    Returns what was judged, in words.
    """
    mine, of = media.label.number, media.label.of
    here = media.here()
    if not alone and len(here) == of:
        return None
    for number in [mine] if alone else here:
        media.bring(number)
        read_parts(verified, media.sets[number - 1], shown)
    if alone:
        return f"volume {mine} of {of}; nothing is said of the others"
    missing = [number for number in range(1, of + 1) if number not in here]
    raise VolumeMissing(
        f"Of the volumes 1 to {of}, {', '.join(map(str, missing))} are not here",
        f"every byte of {', '.join(map(str, here))} is the one that was signed",
        "Mount the others beside them and run it again, or judge one with --this-volume",
    )


def _by_role(verified: VerifiedBundle) -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = {}
    for entry in verified.entries.values():
        part = parts.setdefault(entry.role, {"files": 0, "size": 0})
        part["files"] += 1
        part["size"] += entry.length
    return parts
