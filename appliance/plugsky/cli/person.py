"""``plugsky person``: who may administer the site, by the accounts of its host."""

from typing import Annotated

import msgspec
import typer

from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Give accounts of the host a role on the site.",
)
AccountArgument = Annotated[str, typer.Argument(help="The account's name on this host.")]


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List the accounts that have a role. The owner of the site and root are administrators without one.

    Example: plugsky person list
    """
    people = ask(root, lambda admin: admin.person_list())
    if as_json:
        tell_json("plugsky.person.list/1", {"people": msgspec.to_builtins(people)})
        return
    table(("account", "uid", "role", "created"), [(p.account, p.uid, p.role, p.created) for p in people])


@app.command("set")
def set_(
    account: AccountArgument,
    role: Annotated[str, typer.Argument(help="viewer, operator, auditor or admin.")],
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give an account a role: viewers look, operators also cancel requests, auditors read the trail, admins do all.

    Example: plugsky person set alice auditor
    """
    person = ask(root, lambda admin: admin.person_set(account, role))
    if as_json:
        tell_json("plugsky.person.set/1", msgspec.to_builtins(person))
    else:
        say(f"{person.account} ({person.uid}) is {person.role}.")


@app.command()
def remove(account: AccountArgument, root: RootOption = None, as_json: JsonFlag = False) -> None:
    """Take an account's role away; from its next call on it may only look.

    Example: plugsky person remove alice
    """
    person = ask(root, lambda admin: admin.person_remove(account))
    if as_json:
        tell_json("plugsky.person.remove/1", msgspec.to_builtins(person))
    else:
        say(f"{person.account} is no {person.role} any more.")
