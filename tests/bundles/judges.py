"""Two judges of a bundle that share no code: the trust kernel and the one-file verifier.

A verdict is `ok`, or the name of what is wrong.
"""

import functools
from datetime import datetime
from pathlib import Path

import pytest

from bootstrap import plugsky_verify as verifier
from bundles.forge import NOW
from plugsky_bundles.errors import BundleError
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import TrustState
from plugsky_bundles.trusted_copies import NO_COPIES, CopiesIn
from plugsky_bundles.verify import verify_metadata

_once = functools.lru_cache(maxsize=4096)(verifier.verify_ed25519)
"""Says of a signature what the verifier says. That takes Python milliseconds, and bundles share most signatures."""


def kernel(bundle: Path, pin: str | None, site: Path | None = None, *, now: datetime = NOW, full: bool = True) -> str:
    """What `plugsky bundle verify` says."""
    try:
        media = open_bundle(bundle)
        anchor = pin or "" if site is None else TrustState.from_json((site / "trust/state.json").read_bytes())
        copies = NO_COPIES if site is None else CopiesIn(site / "trust/channels/demo")
        verified = verify_metadata(media, anchor, now=now, copies=copies)
        if full:
            verify_payload(verified)
    except BundleError as error:
        return _checked(error.code, error.exit_code)
    return "ok"


def one_file(bundle: Path, pin: str | None, site: Path | None = None, *, now: datetime = NOW, full: bool = True) -> str:
    """What `plugsky_verify.py` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifier, "verify_ed25519", _once)
        try:
            media = verifier.Media(str(bundle))
            believed = verifier.NO_SITE if site is None else verifier.read_site(str(site))
            found = verifier.Bundle(media, pin, believed, now)
            if full:
                found.check_bytes(verifier.ROLES, verifier.Progress(silent=True), None)
        except verifier.Refused as error:
            return _checked(error.code, error.exit_code)
    return "ok"


def verdict(bundle: Path, pin: str | None, site: Path | None = None, *, now: datetime = NOW, full: bool = True) -> str:
    """What both say; they must say the same."""
    first = kernel(bundle, pin, site, now=now, full=full)
    second = one_file(bundle, pin, site, now=now, full=full)
    assert first == second, f"{first} and {second}"
    return first


def site_with(folder: Path, state: TrustState) -> Path:
    """A site that believes `state`."""
    (folder / "trust").mkdir(parents=True)
    (folder / "trust/state.json").write_bytes(state.to_json())
    return folder


def _checked(code: str, exit_code: int) -> str:
    assert exit_code == (7 if code == "not_found" else 5)
    return code
