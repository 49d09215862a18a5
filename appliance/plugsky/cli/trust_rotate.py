"""``plugsky trust rotate|revoke``: people and keys come and go; what must never be accepted again."""

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.options import PassphraseFile, TrustOption, passphrase, path, trust_directory
from plugsky.cli.output import JsonFlag, say, tell, tell_json
from plugsky.cli.trust_options import say_changes, tell_fingerprint, waiting_json
from plugsky_bundles import ceremony, revoking, rotation
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.format import is_sha256
from plugsky_bundles.key_cards import read_card
from plugsky_bundles.rotation import RootChanges
from plugsky_bundles.state import Revocations
from plugsky_bundles.trustdir import WAITING, TrustDir, open_trust
from plugsky_bundles.walk import fingerprint

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def rotate(
    root_key: Annotated[
        list[Path] | None,
        typer.Option("--root-key", parser=path, metavar="CARD", help="The card of a new holder of a root key."),
    ] = None,
    targets_key: Annotated[
        list[Path] | None,
        typer.Option("--targets-key", parser=path, metavar="CARD", help="The card of a new signer of releases."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="NAME", help="Take this key away, by name or id.")
    ] = None,
    root_threshold: Annotated[
        int | None, typer.Option("--root-threshold", min=1, help="How many holders of root keys must sign.")
    ] = None,
    targets_threshold: Annotated[
        int | None, typer.Option("--targets-threshold", min=1, help="How many signers of releases must.")
    ] = None,
    new_snapshot: Annotated[bool, typer.Option("--new-snapshot", help="Make a new snapshot key.")] = False,
    new_timestamp: Annotated[bool, typer.Option("--new-timestamp", help="Make a new timestamp key.")] = False,
    root_days: Annotated[
        int | None,
        typer.Option(
            "--root-days",
            min=1,
            max=36500,
            help=f"How long the new root is valid, from now on. [default: {ceremony.ROOT_LIFETIME.days}]",
        ),
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Drop the root that waits for signatures.")] = False,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the next root: replace keys, change thresholds, extend its validity.

    It waits for the threshold of the root before it and for its own; copies of waiting/ are signed and merged. What was
    built before is signed anew by building again. After the keys of the build machine were in other hands, make new
    snapshot and timestamp keys: sites then forget versions that those hands may have driven up.

    Example: plugsky trust rotate --trust /secure/trust --remove boris --root-key chen.card.json
    """
    directory = trust_directory(trust)
    if cancel:
        version = rotation.cancel(directory)
        if as_json:
            tell_json("plugsky.trust.rotate/1", {"cancelled": version})
        else:
            tell(f"{directory}: root {version} was dropped; root {version - 1} stays in force")
        return
    asked = (root_key, targets_key, remove, root_threshold, targets_threshold, root_days)
    if not any((*asked, new_snapshot, new_timestamp)):
        raise typer.BadParameter(
            "nothing was to change: name keys or a threshold, or --root-days to extend its validity."
        )
    changes = RootChanges(
        add={
            "root": [read_card(card) for card in root_key or ()],
            "targets": [read_card(card) for card in targets_key or ()],
        },
        remove=remove or (),
        thresholds={
            role: number
            for role, number in (("root", root_threshold), ("targets", targets_threshold))
            if number is not None
        },
        renew=[role for role, wanted in (("snapshot", new_snapshot), ("timestamp", new_timestamp)) if wanted],
        lifetime=ceremony.ROOT_LIFETIME if root_days is None else timedelta(days=root_days),
    )
    made = rotation.rotate(directory, passphrase(passphrase_file), changes, datetime.now(UTC))
    if isinstance(made, TrustDir):
        pin = fingerprint(made.root_bytes)
        if as_json:
            body = {"version": made.root.version, "finished": True, "root_fingerprint": pin, "words": to_words(pin)}
            tell_json("plugsky.trust.rotate/1", body)
            return
        say(f"Root {made.root.version} of {directory} is in force. Its fingerprint, for sites that are new:")
        tell_fingerprint(pin)
        say("Sites that trust an earlier root follow by themselves. Drafts of before must be built again.")
        return
    if as_json:
        tell_json("plugsky.trust.rotate/1", {"finished": False, **waiting_json(made)})
        return
    say_changes(made)
    tell(f"{directory}: root {made.version} waits: {made.explain()}; {', '.join(made.missing)} may sign")
    say(f"next: copy {directory / WAITING} to each of them, who run: plugsky trust sign COPY --keys DIR")


@app.command()
def revoke(
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="A key, by id or by the name that a root gave it.")
    ] = None,
    bundle: Annotated[list[str] | None, typer.Option("--bundle", metavar="ID", help="A bundle, by its id.")] = None,
    digest: Annotated[
        list[str] | None, typer.Option("--digest", metavar="SHA256", help="A file or a chunk, by its digest.")
    ] = None,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Take something back for ever. The list only grows, and goes into every bundle that is built from now on.

    A site obeys it from the first such bundle on; plugsky bundle build --revocations-only makes a small one.

    Example: plugsky trust revoke --trust /secure/trust --bundle 6b1f… --key boris
    """
    directory = trust_directory(trust)
    if not (key or bundle or digest):
        raise typer.BadParameter("nothing was named: give --key, --bundle or --digest.")
    opened = open_trust(directory)
    new = Revocations(
        frozenset(_ids("--bundle", bundle)),
        frozenset(_ids("--digest", digest)),
        frozenset(revoking.keyid_of(opened, word) for word in key or ()),
    )
    whole, fresh = revoking.revoke(directory, new, cache(lambda: passphrase(passphrase_file)), datetime.now(UTC))
    if as_json:
        tell_json("plugsky.trust.revoke/1", {"added": fresh.to_dict(), "revocations": whole.to_dict()})
        return
    counts = {kind: len(ids) for kind, ids in whole.to_dict().items()}
    tell(f"{directory}: " + ", ".join(f"{number} {kind}" for kind, number in counts.items()) + " revoked")
    if fresh == Revocations():
        say("All of it had been revoked before.")
    else:
        say("next: build, sign and seal a bundle of each channel; it carries the list to its sites")


def _ids(option: str, given: list[str] | None) -> list[str]:
    for word in given or ():
        if not is_sha256(word.lower()):
            raise typer.BadParameter(f"{option} {word!r} is not 64 hexadecimal digits.")
    return [word.lower() for word in given or ()]
