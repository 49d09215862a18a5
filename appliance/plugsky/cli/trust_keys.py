"""``plugsky trust key|card``: someone makes a key on their own machine and shows its card; a site shows its own."""

from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.options import PassphraseFile, RootOption, existing_site, passphrase, path
from plugsky.cli.output import JsonFlag, say, tell_json
from plugsky.cli.trust_options import HsmOption, HsmPinFile, hsm_module, key_name, tell_fingerprint
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.fleet import enrolled
from plugsky_bundles import keys
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.key_cards import CARD, KeyCard, make_key, read_card, write_card

app = typer.Typer(add_completion=False, rich_markup_mode=None)

SCHEMES = {"ed25519": keys.ED25519, "p256": keys.P256}


@app.command()
def key(
    name: Annotated[
        str, typer.Argument(parser=key_name, metavar="NAME", help="What people call you: amal, boris-2, …")
    ],
    out: Annotated[
        Path, typer.Option("--out", parser=path, metavar="PATH", help="Your own directory; the key never leaves it.")
    ],
    scheme: Annotated[
        str, typer.Option("--scheme", help="ed25519 or p256; a hardware module makes p256.", metavar="SCHEME")
    ] = "ed25519",
    hsm: HsmOption = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="LABEL", help="The token in the hardware module.")
    ] = None,
    hsm_pin_file: HsmPinFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make your key on your own machine, and a card of it to give away.

    The key is encrypted with your passphrase; with --hsm and --token it is made in a hardware module and never leaves
    that. Give the card to whoever runs the ceremony, and tell them its fingerprint some other way.

    Example: plugsky trust key amal --out ~/plugsky-keys
    """
    if scheme not in SCHEMES:
        raise typer.BadParameter(f"--scheme {scheme!r} is neither ed25519 nor p256.")
    module = hsm_module(hsm, hsm_pin_file)
    if token is None:
        card = make_key(name, out, passphrase(passphrase_file, new=True), SCHEMES[scheme])
    elif module is None:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "A token was named, and no hardware module.",
            next="add --hsm with its PKCS#11 library",
        )
    else:
        card = module.make_key(name, out, token)
    _tell_card(card, out / f"{name}{CARD}", as_json)


@app.command()
def card(
    place: Annotated[
        Path | None,
        typer.Argument(parser=path, metavar="[CARD]", help="A card that someone gave you, to be looked at."),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", parser=key_name, help="What the site is to be called on its card.")
    ] = "site",
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=path, metavar="PATH", help="The directory to write the site's card to."),
    ] = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a card and its fingerprint; without one, make the card of this site's own key.

    The operator enrols the site's card, so that deltas can be built for what the site signed that it holds.

    Example: plugsky trust card --root /var/lib/plugsky --name riyadh --out /media/usb
    """
    if place is not None:
        _tell_card(read_card(place), place, as_json)
        return
    made = enrolled.card(existing_site(root), name)
    if out is None:
        _tell_card(made, None, as_json)
        return
    _tell_card(write_card(out, made), out / f"{name}{CARD}", as_json)


def _tell_card(card: KeyCard, place: Path | None, as_json: bool) -> None:
    if as_json:
        body = {"path": None if place is None else str(place), "name": card.name, "keyid": card.keyid}
        told = {"fingerprint": card.fingerprint, "words": to_words(card.fingerprint), "card": card.to_dict()}
        tell_json("plugsky.trust.card/1", body | told)
        return
    say(f"{card.name}: key {card.keyid}" + ("" if place is None else f", card {place}"))
    say("The card's fingerprint, to be told some other way than the card:")
    tell_fingerprint(card.fingerprint)
