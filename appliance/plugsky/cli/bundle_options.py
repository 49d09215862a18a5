"""What the commands on bundles share: which bundle, whom to believe, and what a verified bundle is called."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from plugsky.cli.options import fingerprint_text, path
from plugsky.cli.output import end_status, say
from plugsky.core import settings
from plugsky.core.commands import command_line, given
from plugsky.core.paths import SitePaths
from plugsky.fleet import site_trust
from plugsky_bundles.errors import RECOPY, UntrustedRoot, VerificationError, VolumeMissing
from plugsky_bundles.format import MAX_ROOT
from plugsky_bundles.media import Ask, Bundle, Directory, Wanted, open_bundle
from plugsky_bundles.sides import BlobReader, in_store, on_media
from plugsky_bundles.state import TrustState
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.trusted_copies import CHANNELS, CopiesIn, CopiesOn, EitherOf, TrustedCopies
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata, verify_to_look
from plugsky_bundles.walk import Anchor, fingerprint

ROOT_METADATA: Final = "metadata/1.root.json"


BundleArgument = Annotated[
    Path, typer.Argument(parser=path, metavar="BUNDLE", help="The bundle's directory, plugsky-CHANNEL-VERSION.")
]
MediaArgument = Annotated[
    Path,
    typer.Argument(
        parser=path, metavar="BUNDLE", help="The bundle: its directory, one of its volumes, a tar stream, or - for one."
    ),
]
EncryptTo = Annotated[
    list[str] | None,
    typer.Option("--encrypt-to", metavar="RECIPIENT", help="Encrypt with age to this recipient; may be repeated."),
]
PinOption = Annotated[
    str | None,
    typer.Option(
        "--pin", parser=fingerprint_text, metavar="FINGERPRINT", help="The root's fingerprint, from the paper."
    ),
]


BaseOption = Annotated[
    Path | None,
    typer.Option(
        "--base", parser=path, metavar="DIR", help="Of a delta: an earlier bundle's directory, for what it leaves out."
    ),
]


def judge(
    bundle: Bundle, pin: str | None, trust: Path | None, root: Path | None, base: Path | None = None
) -> VerifiedBundle:
    """Verify a bundle's metadata; what a delta leaves out comes from the site's or the operator's copies, or `base`."""
    now = datetime.now(UTC)
    return verify_metadata(bundle, anchor(bundle, pin, trust, root), now=now, copies=_copies(trust, root, base))


def look(
    bundle: Bundle, pin: str | None, trust: Path | None, root: Path | None, base: Path | None = None
) -> tuple[VerifiedBundle, str | None]:
    """Likewise for commands that only show: one that the site has moved on from is shown, with a warning.

    The second value is that warning for ``--json``: why the site would refuse to install it, or None.
    """
    believed, now = anchor(bundle, pin, trust, root), datetime.now(UTC)
    verified, refusal = verify_to_look(bundle, believed, now=now, copies=_copies(trust, root, base))
    if refusal is None:
        return verified, None
    words = f"{refusal.what}: {refusal.why}"
    say(f"warning: {words}. It is only shown: this site would refuse to install it.")
    return verified, words


@contextmanager
def mendable(media: Bundle, pin: str | None, trust: Path | None, root: Path | None) -> Iterator[None]:
    """Where a copy in a directory turns out to be damaged, name the command that mends it from another copy."""
    try:
        yield
    except VerificationError as error:
        if error.next == RECOPY and isinstance(media, Directory):
            trusting = given(pin=pin, trust=trust, root=root)
            mend = command_line("bundle", "repair", media.path, "--from", "GOOD", *trusting)
            error.next = f"Copy the bundle again from its source, or mend it from another copy, GOOD: {mend}"
        raise


def site_blobs_of(verified: VerifiedBundle, root: Path | None, base: Path | None) -> list[BlobReader]:
    """Where small blobs are looked for that a delta leaves out: the site's store, another bundle."""
    found: list[BlobReader] = []
    if (site := settings.load({"root": root}).values.root) is not None:
        found.append(in_store(SitePaths.at(site).store, verified.absent))
    if base is not None:
        found.append(on_media(open_bundle(base)))
    return found


def _copies(trust: Path | None, root: Path | None, base: Path | None) -> TrustedCopies:
    chosen = settings.load({"trust": trust, "root": root}).values
    keepers = [SitePaths.at(chosen.root).trust] if chosen.root is not None else []
    keepers += [chosen.trust] if chosen.trust is not None else []
    copies = [CopiesIn(channel) for keeper in keepers for channel in sorted((keeper / CHANNELS).glob("*/"))]
    return EitherOf(*copies, *([CopiesOn(open_bundle(base))] if base is not None else []))


def asking(*command: object) -> Ask:
    """Asks on the terminal for a volume; where there is none, the error says the command to run again."""

    def ask(wanted: Wanted) -> Path | None:
        missing = f"volume {wanted.number} of {wanted.of}"
        if not sys.stdin.isatty():
            raise VolumeMissing(
                f"{missing.capitalize()} is not here",
                wanted.problem or f"it is not at {', '.join(map(str, wanted.looked[:3]))}, nor beside",
                f"Mount it there, then run: {command_line(*command)}",
            )
        if wanted.problem:
            say(f"  {wanted.problem}")
        end_status()
        answer: str = typer.prompt(
            f"insert {missing}; mounted at (empty: stop)", default="", show_default=False, err=True
        )
        return Path(answer) if answer else None

    return ask


def anchor(bundle: Bundle, pin: str | None, trust: Path | None, root: Path | None) -> Anchor:
    """Whom to believe: the paper, the site, or the operator's own root, in this order."""
    chosen = settings.load({"trust": trust, "root": root}).values
    if pin is not None:
        return pin
    if chosen.root is not None and (state := site_trust.load(SitePaths.at(chosen.root))) is not None:
        return state
    if chosen.trust is not None:
        return TrustState(open_trust(chosen.trust).root_bytes)
    claimed = fingerprint(bundle.read(ROOT_METADATA, limit=MAX_ROOT)) if ROOT_METADATA in bundle.files else "none"
    raise UntrustedRoot(
        f"Nobody has said whom to trust for {bundle.path}",
        f"the bundle itself claims root {claimed}, which proves nothing",
        "Compare that with the paper, then add --pin FINGERPRINT; or name --root SITE or --trust DIR",
    )


def identity(verified: VerifiedBundle) -> dict[str, Any]:
    signers = {role: [{"keyid": s.keyid, "name": s.name} for s in who] for role, who in verified.signers.items()}
    return {
        "path": str(verified.bundle.path),
        "channel": verified.channel,
        "version": verified.version,
        "bundle_id": verified.bundle_id,
        "content_id": verified.content_id,
        "root_fingerprint": verified.root_fingerprint,
        "sealed_at": stamp(verified.sealed_at),
        "expires": stamp(verified.expires),
        "signers": signers,
    }


def signed_by(verified: VerifiedBundle) -> list[str]:
    """Who signed a bundle, a line for each role: the names that the root gives, and the first digits of the keys."""
    return [
        f"signed   {role:10} by {', '.join(f'{signer.name} {signer.keyid[:16]}'.lstrip() for signer in signers)}"
        for role, signers in verified.signers.items()
    ]
