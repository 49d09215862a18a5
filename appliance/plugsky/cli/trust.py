"""``plugsky trust``: the operator's keys, what they sign, and whom else to believe.

The commands live in the modules named here: a ceremony's beginning and its state in this one.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from plugsky.cli import trust_enrol, trust_keys, trust_reset, trust_rotate, trust_sign
from plugsky.cli.options import PassphraseFile, TrustOption, passphrase, path, trust_directory
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.cli.trust_options import role_table, say_changes, tell_fingerprint, tell_roles, waiting_json
from plugsky.core.commands import command_line, given
from plugsky_bundles import ceremony, enrolment, revoking, waiting
from plugsky_bundles.errors import RootWaiting
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.key_cards import read_card
from plugsky_bundles.trustdir import WAITING, open_trust
from plugsky_bundles.walk import fingerprint

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Make and use the operator's keys."
)

Cards = list[Path] | None


@app.command()
def init(
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path, metavar="PATH", help="The directory to make; it must not exist or be empty."
        ),
    ],
    root_key: Annotated[
        Cards,
        typer.Option("--root-key", parser=path, metavar="CARD", help="The card of someone who holds a root key."),
    ] = None,
    root_keys: Annotated[
        int | None,
        typer.Option("--root-keys", min=0, max=16, help="How many root keys to make here. [default: 1 without cards]"),
    ] = None,
    root_threshold: Annotated[int, typer.Option("--root-threshold", min=1, help="How many of them must sign.")] = 1,
    targets_key: Annotated[
        Cards,
        typer.Option("--targets-key", parser=path, metavar="CARD", help="The card of someone who signs releases."),
    ] = None,
    targets_keys: Annotated[
        int | None,
        typer.Option("--targets-keys", min=0, max=16, help="How many to make here. [default: 1 without cards]"),
    ] = None,
    targets_threshold: Annotated[int, typer.Option("--targets-threshold", min=1, help="How many of them must.")] = 1,
    root_days: Annotated[
        int, typer.Option("--root-days", min=1, max=36500, help="How long the root is valid.")
    ] = ceremony.ROOT_LIFETIME.days,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Begin trust: the first root binds keys of people to root and targets; snapshot and timestamp keys are made here.

    People make their keys on their own machines (plugsky trust key) and give a card of each. A root whose people are
    not all here waits for their signatures, and has no fingerprint until enough have signed.

    Example: plugsky trust init --out /secure/trust --root-key amal.card.json --root-key boris.card.json
    --root-threshold 2 --targets-key dana.card.json
    """
    made_here = {"root": _number(root_keys, root_key), "targets": _number(targets_keys, targets_key)}
    cards = {"root": root_key or [], "targets": targets_key or []}
    for role, threshold in (("root", root_threshold), ("targets", targets_threshold)):
        if threshold > made_here[role] + len(cards[role]):
            raise typer.BadParameter(
                f"--{role}-threshold {threshold} is more than the {made_here[role] + len(cards[role])} keys there are"
            )
    made = ceremony.init(
        out,
        passphrase(passphrase_file, new=True),
        root_keys=made_here["root"],
        root_threshold=root_threshold,
        targets_keys=made_here["targets"],
        targets_threshold=targets_threshold,
        root_cards=[read_card(card) for card in cards["root"]],
        targets_cards=[read_card(card) for card in cards["targets"]],
        now=datetime.now(UTC),
        lifetime=timedelta(days=root_days),
    )
    if as_json:
        body = {
            "path": str(made.path),
            "root_fingerprint": made.fingerprint,
            "words": made.fingerprint and to_words(made.fingerprint),
            "waiting": made.fingerprint is None,
            "missing": made.missing,
            "expires": made.expires,
            "keys": made.keyids,
        }
        tell_json("plugsky.trust.init/1", body)
        return
    say(f"Trust begins in {made.path}; its root is valid until {made.expires:%Y-%m-%d}.")
    if made.fingerprint is None:
        found = waiting.find(made.path)
        say_changes(found)
        tell(f"{made.path}: root 1 waits: {found.explain()}; {', '.join(made.missing)} may sign")
        say("Its fingerprint goes on paper when it is finished, not before.")
        say(f"next: copy {made.path / WAITING} to each of them, who run: plugsky trust sign COPY --keys DIR")
        return
    say("Write this on the paper that travels apart from the media, as digits, as words, or both:")
    tell_fingerprint(made.fingerprint)


@app.command()
def show(
    place: Annotated[
        Path | None,
        typer.Argument(parser=path, metavar="[PATH]", help="A copy of a root that waits; else the trust directory."),
    ] = None,
    trust: TrustOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a trust directory stands for: roots, roles, keys, what waits, what is revoked, who is enrolled.

    Needs no passphrase. A root that waits for signatures has no fingerprint yet.

    Example: plugsky trust show --trust /secure/trust
    """
    directory = place or trust_directory(trust)
    found = waiting.find(directory) if waiting.is_waiting(directory) else None
    try:
        opened = open_trust(directory) if place is None or found is None else None
    except RootWaiting:
        opened = None
    revoked, enrolled = revoking.load(directory), enrolment.load(directory)
    if as_json:
        body: dict[str, Any] = {"root_fingerprint": None, "version": None}
        if opened is not None:
            pin = fingerprint(opened.root_bytes)
            body = {
                "root_fingerprint": pin,
                "words": to_words(pin),
                "version": opened.root.version,
                "expires": opened.root.expires,
                "roles": role_table(opened.root),
            }
        body |= {"waiting": None if found is None else waiting_json(found), "revocations": revoked.to_dict()}
        who = [{"keyid": keyid, "role": e.role, "name": e.name, "at": e.at} for keyid, e in enrolled.keys.items()]
        tell_json("plugsky.trust.show/1", body | {"enrolled": who})
        return
    if opened is not None:
        tell(
            f"root {opened.root.version}  {fingerprint(opened.root_bytes)}  valid until {opened.root.expires:%Y-%m-%d}"
        )
        tell(f"words   {to_words(fingerprint(opened.root_bytes))}")
        tell_roles(opened.root)
    if found is not None:
        tell(f"root {found.version}  waits: {found.explain()}  valid until {found.root.expires:%Y-%m-%d}")
        tell(f"signed by {', '.join(found.signers) or 'nobody'}; {', '.join(found.missing) or 'nobody'} may sign")
        tell_roles(found.root)
        if found.complete:
            say(f"next: {command_line('trust', 'merge', directory, *given(trust=trust))}")
    for kind, ids in revoked.to_dict().items():
        for item in ids:
            tell(f"revoked {kind}  {item}")
    if enrolled.keys:
        table(
            ("enrolled as", "name", "since", "keyid"),
            [(e.role, e.name, e.at, keyid) for keyid, e in enrolled.keys.items()],
        )


def _number(asked: int | None, cards: Sequence[Path] | None) -> int:
    """How many keys to make here: as many as asked for; without a word and without cards, one."""
    return asked if asked is not None else 0 if cards else 1


for part in (trust_keys, trust_sign, trust_rotate, trust_enrol):
    app.add_typer(part.app)
app.add_typer(trust_reset.app, name="reset")
