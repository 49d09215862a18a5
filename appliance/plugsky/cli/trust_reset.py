"""``plugsky trust reset request|apply``: a lost key of somebody enrolled, replaced by the people of the root."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.options import RootOption, existing_site, fingerprint_text, path
from plugsky.cli.output import JsonFlag, say, tell, tell_json
from plugsky.cli.trust_enrol import trail_of
from plugsky.cli.trust_options import key_name
from plugsky.core.commands import command_line, given
from plugsky.fleet import enrolled, site_trust
from plugsky_bundles import reset
from plugsky_bundles.enrolment import ENROLLED_ROLES, SITE
from plugsky_bundles.errors import ExistsError
from plugsky_bundles.key_cards import check_fingerprint, read_card
from plugsky_bundles.times import stamp

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Replace a lost key of this site, of an approver or a courier, by statement.",
)


@app.command()
def request(
    out: Annotated[
        Path, typer.Option("--out", parser=path, metavar="FILE", help="The request to write; it must not exist.")
    ],
    name: Annotated[
        str,
        typer.Option("--name", parser=key_name, help="Whose key: the holder's name, or what the site is called."),
    ],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="approver, courier or site.")] = "approver",
    card: Annotated[
        Path | None,
        typer.Option("--card", parser=path, metavar="CARD", help="The holder's new card; without it the key goes."),
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint", parser=fingerprint_text, metavar="FINGERPRINT", help="The new card's, as its holder told."
        ),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="It is somebody new: nobody of that name is enrolled, and nobody goes.")
    ] = False,
    approvals_required: Annotated[
        int | None, typer.Option("--approvals-required", min=0, help="How many approvals an installation then needs.")
    ] = None,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write down which key is to be replaced, removed or added, for the holders of root keys to sign.

    The name is that of somebody who is enrolled, and on the new card; --add asks for somebody new. The request is good
    for this site, for one time and for 30 days. The site's own new key is made here and waits for the statement.

    Example: plugsky trust reset request --name omar --card omar-2.card.json --fingerprint "lusab-…" --out /media/usb/r
    """
    if role not in ENROLLED_ROLES:
        raise typer.BadParameter(f"--role {role!r} is none of {', '.join(ENROLLED_ROLES)}.")
    if (card is None) != (fingerprint is None) or (role == SITE and card is not None):
        raise typer.BadParameter("--card and --fingerprint go together, and not for a site.")
    if add and card is None:
        raise typer.BadParameter("--add needs the --card of whoever is to be added.")
    if out.exists():
        raise ExistsError(f"{out} is there already", "it may carry signatures", "Choose another name")
    newcomer = None if card is None else read_card(card)
    if newcomer is not None and fingerprint is not None:
        check_fingerprint(newcomer, fingerprint)
    paths = existing_site(root)
    made = enrolled.request_reset(
        paths,
        role=role,
        name=name,
        newcomer=newcomer,
        approvals_required=approvals_required,
        now=datetime.now(UTC),
        add=add,
    )
    reset.write(out, made)
    if as_json:
        change = made.change
        body = {"path": str(out), "site": change.site, "serial": change.serial, "role": change.role, "old": change.old}
        new = None if change.new is None else change.new.to_dict()
        until = {"expires": stamp(made.expires)}
        tell_json("plugsky.trust.reset-request/1", {**body, "new": new, "threshold": made.threshold, **until})
        return
    tell(f"{out}: statement {made.change.serial} of site {made.change.site[:16]} waits for {made.threshold} signatures")
    say(f"{made.change}. It can be applied until {stamp(made.expires)}.")
    believed = site_trust.load(paths)
    who = "holders of root keys" if believed is None else site_trust.people(believed)
    say(f"next: carry copies to {who}; they run: {command_line('trust', 'sign', out.name, '--keys', 'DIR')}")


@app.command("apply")
def apply_statement(
    statement: Annotated[Path, typer.Argument(parser=path, metavar="STATEMENT", help="The signed request.")],
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Do what a statement says, if enough holders of root keys signed it; it is recorded in the audit trail.

    Stop the site before its own key is replaced: its chains end, and new ones begin.

    Example: plugsky trust reset apply /media/usb/reset.json --root /var/lib/plugsky
    """
    paths = existing_site(root)
    found = reset.read(statement)
    done = enrolled.apply_reset(paths, found, trail_of(paths), f"user:{getpass.getuser()}", datetime.now(UTC))
    if as_json:
        body = {"role": found.change.role, "serial": done.serial, "approvals_required": done.approvals_required}
        tell_json("plugsky.trust.reset-apply/1", body)
        return
    tell(f"statement {done.serial} was applied: {found.change}")
    say(f"Installing here needs {done.approvals_required} approvals from now on.")
    if found.change.role == SITE:
        say(f"next: {command_line('trust', 'card', *given(root=root))}, for the operator to enrol")
