"""``plugsky custody``: who had a bundle in hand, from the build to the installation."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from tuf.api.metadata import Root

from plugsky.audit.site_key import site_key_of_trail
from plugsky.cli.bundle_options import MediaArgument, PinOption, identity, judge, look, signed_by
from plugsky.cli.options import PassphraseFile, RootOption, TrustOption, path
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.cli.trust_options import HsmOption, HsmPinFile, KeyNames, holder
from plugsky.core import settings
from plugsky.core.paths import SitePaths
from plugsky.fleet import enrolled
from plugsky_bundles import custody, custody_review, enrolment, revoking
from plugsky_bundles.custody_files import MAX_DETAIL
from plugsky_bundles.custody_review import Keyholder
from plugsky_bundles.media import open_media
from plugsky_bundles.metadata import key_names, read_metadata
from plugsky_bundles.returns import returns_of
from plugsky_bundles.verified import VerifiedBundle

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Record and review who had a bundle in hand.",
)


class Happening(StrEnum):
    """What people record by hand; copying, verifying, approving and installing record themselves."""

    WRITE = "write"
    HAND_OVER = "hand-over"
    RECEIVE = "receive"
    VERIFY = "verify"
    NOTE = "note"


def short_line(text: str) -> str:
    """What people say in a record, as an option."""
    if len(text) > MAX_DETAIL or not text.isprintable():
        raise typer.BadParameter(f"it is not one line of at most {MAX_DETAIL} characters.")
    return text


@app.command()
def record(
    bundle: MediaArgument,
    event: Annotated[Happening, typer.Argument(help="What happened.")],
    keys: Annotated[Path, typer.Option("--keys", parser=path, metavar="PATH", help="The directory of your own keys.")],
    key: KeyNames = None,
    to: Annotated[
        str | None, typer.Option("--to", parser=short_line, help="Who has it now; a hand-over needs it.")
    ] = None,
    medium: Annotated[
        str | None, typer.Option("--medium", parser=short_line, help="The stick or disc: label, serial number.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", parser=short_line, help="Anything else, on one line.")] = None,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    hsm: HsmOption = None,
    hsm_pin_file: HsmPinFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign into the custody log beside a bundle what happened to it, with your own key.

    The bundle's metadata is verified first. The log travels in plugsky-returns/custody beside the bundle.

    Example: plugsky custody record /media/usb/plugsky-demo-1 hand-over --to "Ben" --keys ~/plugsky-keys --pin 3f2a…
    """
    if event is Happening.HAND_OVER and to is None:
        raise typer.BadParameter("a hand-over says to whom: give --to.")
    verified = judge(open_media(bundle), pin, trust, root)
    own = holder(keys, passphrase_file, hsm, hsm_pin_file)
    (card, signer), *_ = own.opened(None, key)
    details = {name: value for name, value in (("to", to), ("medium", medium), ("text", text)) if value is not None}
    folder = returns_of(verified.bundle.path) / custody.FOLDER
    now = datetime.now(UTC)
    place = custody.record(folder, verified, signer, card.name, f"bundle.{event}", now, details)
    if as_json:
        body = {"log": str(place), "event": f"bundle.{event}", "by": card.name, "bundle_id": verified.bundle_id}
        tell_json("plugsky.custody.record/1", body)
        return
    tell(f"{place}: bundle.{event} is recorded, signed by {card.name}")


@app.command()
def show(
    bundle: MediaArgument,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the way of a bundle, one line per event, and whether every record of it can be believed.

    Keys are those that the root names and those that were enrolled with --trust or --root, each for what its role does:
    approvals are an approver's, the installation is the site's own. Any doubt ends with 5. A log by a key that nobody
    enrolled here is listed as an unknown holder's and ends nothing: what it says proves nothing. Where all logs were
    taken away, nothing is left that could be doubted: it says that nothing was recorded after the seal.

    A bundle that is older than what the site (--root) has accepted is shown too, with a warning.

    Example: plugsky custody show /media/usb/plugsky-demo-1 --root /var/lib/plugsky
    """
    verified, refusal = look(open_media(bundle), pin, trust, root)
    folder = returns_of(verified.bundle.path) / custody.FOLDER
    chosen = settings.load({"trust": trust, "root": root}).values
    revoked = revoking.load(chosen.trust).keys if chosen.trust is not None else frozenset()
    found = custody_review.review(folder, verified, known_keys(verified, chosen.trust, chosen.root), revoked)
    if as_json:
        events = [
            {"at": e.at, "event": e.event, "by": e.by, "known_as": e.known_as, "keyid": e.keyid, "details": e.details}
            for e in found.events
        ]
        body: dict[str, Any] = {**identity(verified), "refused_here": refusal, "events": events, "doubts": found.doubts}
        unknown = [{"log": name, "keyid": keyid} for name, keyid in found.unknown.items()]
        tell_json("plugsky.custody.show/1", {**body, "unknown": unknown, "recorded_after_seal": found.recorded})
    else:
        tell(f"{verified.channel} version {verified.version}, bundle {verified.bundle_id}")
        for line in signed_by(verified):
            tell(line)
        tell("")
        table(
            ("when (UTC)", "what", "who", "key", "details"),
            [
                (
                    f"{e.at:%Y-%m-%d %H:%M:%S}",
                    e.event,
                    e.known_as or f"UNKNOWN, calls themselves {e.by}",
                    e.keyid[:16],
                    "; ".join(f"{name} {value}" for name, value in e.details.items()),
                )
                for e in found.events
            ],
        )
        if not found.recorded:
            say("Nothing after the seal is recorded here: either nobody did, or all of it was taken away.")
        for name, keyid in found.unknown.items():
            say(f"unknown holder: {name}: nobody enrolled its key {keyid} here; what it says proves nothing")
        for doubt in found.doubts:
            say(f"doubt: {doubt}")
    if found.doubts:
        raise custody_review.doubt(found)


def signed_by_holder(
    verified: VerifiedBundle,
    folder: Path,
    event: str,
    keys: Path | None,
    passphrase_file: Path | None,
    details: dict[str, str] | None = None,
) -> None:
    """After a command did what ``event`` says: record it with the holder's key, where one was named."""
    if keys is None:
        return
    (card, signer), *_ = holder(keys, passphrase_file, None, None).opened(None, None)
    place = custody.record(folder, verified, signer, card.name, event, datetime.now(UTC), details)
    say(f"{event} is recorded in {place}, signed by {card.name}")


def known_keys(verified: VerifiedBundle, trust: Path | None, root: Path | None) -> dict[str, Keyholder]:
    """Whose keys are believed: those that the root names, and those enrolled at the operator's or the site."""
    root_metadata = read_metadata(verified.state.root, Root, "The root").signed
    names = key_names(root_metadata, "The root")
    known = {keyid: Keyholder(name, custody_review.OPERATOR) for keyid, name in names.items()}
    lists = [] if root is None else [enrolled.load(SitePaths.at(root))]
    lists += [] if trust is None else [enrolment.load(trust)]
    for keepers in lists:
        known |= {keyid: Keyholder(key.name, key.role) for keyid, key in keepers.keys.items()}
    if root is not None and (own := site_key_of_trail(SitePaths.at(root), None)) is not None:
        known[own.keyid] = Keyholder("here", enrolment.SITE)
    return known
