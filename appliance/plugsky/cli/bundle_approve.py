"""``plugsky bundle approve``: verified -> approved, by someone other than the installer."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.bundle_options import BundleArgument, PinOption, identity, judge
from plugsky.cli.options import PassphraseFile, RootOption, TrustOption, path
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, tell, tell_json
from plugsky.cli.trust_options import HsmOption, HsmPinFile, KeyNames, holder
from plugsky_bundles import approval, custody
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.returns import returns_of

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def approve(
    bundle: BundleArgument,
    keys: Annotated[Path, typer.Option("--keys", parser=path, metavar="PATH", help="The directory of your own keys.")],
    key: KeyNames = None,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=path, metavar="PATH", help="Where to write it. Default: plugsky-returns beside it."
        ),
    ] = None,
    hsm: HsmOption = None,
    hsm_pin_file: HsmPinFile = None,
    passphrase_file: PassphraseFile = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Verify every byte of a bundle, then sign that it may be installed.

    A site that asks for approvals installs nothing without them. It compares names: an approval does not count when the
    name that the site enrolled its key under is the name of the account that installs, or of the login that this
    account came from. One person with two names is not noticed; docs/runbooks/ceremony.md says how to see to it.

    Example: plugsky bundle approve /media/usb/plugsky-demo-2 --keys ~/plugsky-keys --pin 3f2a…
    """
    verified = judge(open_bundle(bundle), pin, trust, root)
    verify_payload(verified, progress(progress_style))
    own = holder(keys, passphrase_file, hsm, hsm_pin_file)
    (card, signer), *_ = own.opened(None, key)
    place = approval.put(
        verified,
        approval.approve(verified, signer, card.name, datetime.now(UTC)),
        card.keyid,
        out or returns_of(bundle),
    )
    custody.record(place.parent / custody.FOLDER, verified, signer, card.name, "bundle.approve", datetime.now(UTC))
    if as_json:
        tell_json("plugsky.bundle.approve/1", {"approval": str(place), "by": card.name, **identity(verified)})
        return
    tell(f"{place}: {verified.channel} version {verified.version} is approved by {card.name}")
    say(f"It is bundle {verified.bundle_id}.")
