"""``plugsky trust``: the operator's keys and what they sign."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.options import PassphraseFile, TrustOption, passphrase, path, trust_directory
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.core.commands import command_line, given
from plugsky_bundles import ceremony, signing
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.walk import fingerprint

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make and use the operator's keys.")


@app.command()
def init(
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path, metavar="PATH", help="The directory to make; it must not exist or be empty."
        ),
    ],
    root_keys: Annotated[int, typer.Option("--root-keys", min=1, max=16, help="How many people hold root keys.")] = 1,
    root_threshold: Annotated[int, typer.Option("--root-threshold", min=1, help="How many of them must sign.")] = 1,
    targets_keys: Annotated[int, typer.Option("--targets-keys", min=1, max=16, help="How many sign releases.")] = 1,
    targets_threshold: Annotated[int, typer.Option("--targets-threshold", min=1, help="How many of them must.")] = 1,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make root, targets, snapshot and timestamp keys, encrypted, and the first root that binds them.

    Write the printed fingerprint on paper: a facility compares it before its first installation.

    Example: plugsky trust init --out /secure/trust --root-keys 3 --root-threshold 2
    """
    for role, keys, threshold in (("root", root_keys, root_threshold), ("targets", targets_keys, targets_threshold)):
        if threshold > keys:
            raise typer.BadParameter(f"--{role}-threshold {threshold} is more than --{role}-keys {keys}")
    made = ceremony.init(
        out,
        passphrase(passphrase_file, new=True),
        root_keys=root_keys,
        root_threshold=root_threshold,
        targets_keys=targets_keys,
        targets_threshold=targets_threshold,
        now=datetime.now(UTC),
    )
    if as_json:
        body = {
            "path": str(made.path),
            "root_fingerprint": made.fingerprint,
            "expires": made.expires,
            "keys": made.keyids,
        }
        tell_json("plugsky.trust.init/1", body)
        return
    say(f"Trust begins in {made.path}; its root is valid until {made.expires:%Y-%m-%d}.")
    say("Write this on the paper that travels apart from the media:")
    tell(made.fingerprint)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(parser=path, metavar="BUNDLE", help="The bundle's directory.")],
    key: Annotated[list[str] | None, typer.Option("--key", help="Only this key, for example targets-2.")] = None,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign targets and every delegated role of a bundle with the targets keys that open here.

    Example: plugsky trust sign /media/usb/plugsky-demo-1 --trust /secure/trust
    """
    signed = signing.sign(bundle, trust_directory(trust), passphrase(passphrase_file), key)
    if as_json:
        tell_json("plugsky.trust.sign/1", dataclasses.asdict(signed))
        return
    tell(f"{bundle}: signed by {', '.join(signed.signers)}" + ("" if signed.added else " before; nothing to add"))
    if signed.missing:
        say(f"{signed.missing} more must sign before sealing.")
    else:
        say(f"next: {command_line('bundle', 'seal', bundle, *given(trust=trust, passphrase_file=passphrase_file))}")


@app.command()
def show(trust: TrustOption = None, as_json: JsonFlag = False) -> None:
    """Show the root that a trust directory stands for: fingerprint, roles, keys, thresholds. Needs no passphrase.

    Example: plugsky trust show --trust /secure/trust
    """
    opened = open_trust(trust_directory(trust))
    root = opened.root
    roles = {
        name: {"threshold": role.threshold, "keys": {opened.names.get(keyid, ""): keyid for keyid in role.keyids}}
        for name, role in root.roles.items()
    }
    if as_json:
        body = {
            "root_fingerprint": fingerprint(opened.root_bytes),
            "version": root.version,
            "expires": root.expires,
            "roles": roles,
        }
        tell_json("plugsky.trust.show/1", body)
        return
    tell(f"root {root.version}  {fingerprint(opened.root_bytes)}  valid until {root.expires:%Y-%m-%d}")
    table(
        ("role", "threshold", "key", "keyid"),
        [
            (name, f"{role.threshold} of {len(role.keyids)}", opened.names.get(keyid, "-"), keyid)
            for name, role in root.roles.items()
            for keyid in role.keyids
        ],
    )
