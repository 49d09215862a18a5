"""``plugsky trust enrol``: believe one more key, by the fingerprint that its holder told."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from plugsky.audit import AuditLog
from plugsky.cli.actor import actor
from plugsky.cli.options import (
    PassphraseFile,
    RootOption,
    TrustOption,
    existing_site,
    passphrase,
    path,
    trust_directory,
)
from plugsky.cli.output import JsonFlag, say, tell, tell_json
from plugsky.cli.trust_options import FingerprintOption
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import enrolled as of_site
from plugsky_bundles import enrolment
from plugsky_bundles.enrolment import APPROVER, COURIER, SITE, Enrolled
from plugsky_bundles.key_cards import KeyCard, check_fingerprint, read_card
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import open_trust

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def enrol(
    card: Annotated[Path, typer.Argument(parser=path, metavar="CARD", help="The card that its holder gave.")],
    fingerprint: FingerprintOption,
    role: Annotated[
        str,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="approver (at a site), site (in a trust directory), or courier (with --root or --trust).",
        ),
    ],
    approvals_required: Annotated[
        int | None,
        typer.Option("--approvals-required", min=0, help="How many approvals an installation needs from now on."),
    ] = None,
    root: RootOption = None,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Enrol the key of an approver at a site, of a site in the operator's trust directory, or of a courier at either.

    As soon as a site asks for approvals, its keys change by a statement of the root's people only (plugsky trust
    reset): so enrol every approver first, and give --approvals-required with the last one.

    Example: plugsky trust enrol --role approver omar.card.json --fingerprint "lusab-…" --root /var/lib/plugsky
    """
    newcomer = read_card(card)
    if approvals_required is not None and role != APPROVER:
        raise typer.BadParameter("--approvals-required is for the role approver.")
    if role == APPROVER or (role == COURIER and root is not None):
        done = of_site.enrol(
            existing_site(root),
            newcomer,
            fingerprint,
            trail_of(existing_site(root)),
            actor(),
            datetime.now(UTC),
            role=role,
            approvals_required=approvals_required,
        )
    elif role in (SITE, COURIER):
        done = _in_trust_directory(trust_directory(trust), newcomer, role, fingerprint, passphrase_file)
    else:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"{role!r} is no role that keys are enrolled for.",
            next="use approver, site or courier",
        )
    _tell(done, newcomer, role, as_json)


def trail_of(paths: SitePaths) -> of_site.Trail:
    """Opens the chain in which the command line records what it changes."""
    return lambda: AuditLog.open(paths, "cli", SystemClock(), spare=True)


def _in_trust_directory(
    directory: Path, newcomer: KeyCard, role: str, fingerprint: str, passphrase_file: Path | None
) -> Enrolled:
    check_fingerprint(newcomer, fingerprint)
    opened, now = open_trust(directory), datetime.now(UTC)
    before = enrolment.load(directory)
    after = before.enrol(newcomer, role, now)
    if after != before:
        if opened.holds("snapshot"):
            secret = cache(lambda: passphrase(passphrase_file))
            record = {"event": "trust.enrol", "at": stamp(now), "name": newcomer.name, "keyid": newcomer.keyid}
            opened.log(secret(), [record])
        enrolment.save(directory, after)
    return after


def _tell(done: Enrolled, newcomer: KeyCard, role: str, as_json: bool) -> None:
    if as_json:
        body = {"role": role, "name": newcomer.name, "keyid": newcomer.keyid, "serial": done.serial}
        tell_json("plugsky.trust.enrol/1", {**body, "approvals_required": done.approvals_required})
        return
    tell(f"{newcomer.name} is enrolled as {role}: key {newcomer.keyid}")
    if role == APPROVER:
        there = len(done.of(APPROVER))
        say(f"Installing here needs {done.approvals_required} approvals; {there} approvers are enrolled.")
