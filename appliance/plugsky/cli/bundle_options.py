"""What the commands on bundles share: which bundle, whom to believe, and what a verified bundle is called."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from plugsky.cli.options import path
from plugsky.core import settings
from plugsky.core.paths import SitePaths
from plugsky.fleet import site_trust
from plugsky_bundles.errors import UntrustedRoot
from plugsky_bundles.format import MAX_ROOT, is_sha256
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import TrustState
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.walk import Anchor, fingerprint

ROOT_METADATA: Final = "metadata/1.root.json"


def _pin(text: str) -> str:
    """A fingerprint as the paper says it, in either case."""
    if not is_sha256(text.lower()):
        raise typer.BadParameter(f"{text!r} is no fingerprint: one has 64 hexadecimal digits.")
    return text.lower()


BundleArgument = Annotated[
    Path, typer.Argument(parser=path, metavar="BUNDLE", help="The bundle's directory, plugsky-CHANNEL-VERSION.")
]
PinOption = Annotated[
    str | None,
    typer.Option("--pin", parser=_pin, metavar="FINGERPRINT", help="The root's fingerprint, from the paper."),
]


def anchor(bundle: Path, pin: str | None, trust: Path | None, root: Path | None) -> Anchor:
    """Whom to believe: the paper, the site, or the operator's own root, in this order."""
    chosen = settings.load({"trust": trust, "root": root}).values
    if pin is not None:
        return pin
    if chosen.root is not None and (state := site_trust.load(SitePaths.at(chosen.root))) is not None:
        return state
    if chosen.trust is not None:
        return TrustState(open_trust(chosen.trust).root_bytes)
    found = open_bundle(bundle)
    claimed = fingerprint(found.read(ROOT_METADATA, limit=MAX_ROOT)) if ROOT_METADATA in found.files else "none"
    raise UntrustedRoot(
        f"Nobody has said whom to trust for {bundle}",
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
        "sealed_at": verified.sealed_at.isoformat(),
        "expires": verified.expires.isoformat(),
        "signers": signers,
    }
