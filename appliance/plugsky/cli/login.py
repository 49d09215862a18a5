"""``plugsky login``: people log in with a password and a one-time code, and administrators say who may."""

import getpass
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from plugsky.admin.api import NewLogin
from plugsky.cli.administration import ask
from plugsky.cli.options import RootOption
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.core import env
from plugsky.core.errors import ErrorKind, PlugskyError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Log in as yourself, and say who may."
)
MAX_TOKEN: Final = 65_536
HELP: Final = "plugsky login add --help"
NameArgument = Annotated[str, typer.Argument(help="The login's name.")]
RoleArgument = Annotated[str, typer.Argument(help="viewer, operator, auditor or admin.")]


@app.command()
def begin(
    name: NameArgument,
    token: Annotated[
        Path | None,
        typer.Option("--token", metavar="FILE", help="An ID token of the site's OpenID provider, for a password."),
    ] = None,
    root: RootOption = None,
) -> None:
    """Log in to the running site: asks for password and code, and writes the session to stdout.

    The next commands are yours while PLUGSKY_SESSION holds it. It ends 15 minutes after its last use.
    With --token - the ID token is read from stdin.

    Example: export PLUGSKY_SESSION=$(plugsky login begin alice)
    """
    password = _asked("Password: ") if token is None else _read(token)
    code = _asked("Code of your authenticator: ")
    session = ask(root, lambda admin: admin.login_begin(name, password, code))
    tell(session.token)
    say(f"You are {session.name}, {session.role}, until {session.idle_s // 60} minutes pass without a command.")


@app.command()
def end(root: RootOption = None) -> None:
    """End the session that PLUGSKY_SESSION holds.

    Example: plugsky login end
    """
    token = env.SESSION.read()
    if token is None:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST, f"{env.SESSION.name} holds no session.", next="plugsky login begin NAME"
        )
    ask(root, lambda admin: admin.login_end(token))
    say("The session is over.")


@app.command()
def password(name: NameArgument, root: RootOption = None) -> None:
    """Choose another password, with the one so far and a code. Every session of the login ends.

    Example: plugsky login password alice
    """
    old, code = _asked("Password so far: "), _asked("Code of your authenticator: ")
    new = _asked("New password: ")
    if _asked("The same again: ") != new:
        raise PlugskyError(ErrorKind.BAD_REQUEST, "The two new passwords differ; nothing was changed.")
    ask(root, lambda admin: admin.login_password(name, old, code, new))
    say(f"{name} has another password.")


@app.command("list")
def list_(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List the logins.

    Example: plugsky login list
    """
    logins = ask(root, lambda admin: admin.login_list())
    if as_json:
        tell_json("plugsky.login.list/1", {"logins": msgspec.to_builtins(logins)})
        return
    rows = [(login.name, login.role, f"{login.source} {login.subject}".strip(), login.created) for login in logins]
    table(("login", "role", "known by", "created"), rows)


@app.command()
def add(
    name: NameArgument,
    role: RoleArgument,
    ldap: Annotated[bool, typer.Option("--ldap", help="The password is that of the site's directory.")] = False,
    oidc: Annotated[
        str, typer.Option("--oidc", metavar="SUBJECT", help="Who the site's OpenID provider says this is.")
    ] = "",
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a login. Its password and the secret of its codes are shown once.

    Example: plugsky login add alice auditor
    """
    if ldap and oidc:
        raise PlugskyError(ErrorKind.BAD_REQUEST, "A login has one source: --ldap or --oidc.", next=HELP)
    source = "ldap" if ldap else "oidc" if oidc else "local"
    _tell_new(
        ask(root, lambda admin: admin.login_add(name, role, source, oidc)),
        "plugsky.login.add/1",
        as_json=as_json,
    )


@app.command()
def role(name: NameArgument, role: RoleArgument, root: RootOption = None, as_json: JsonFlag = False) -> None:
    """Give a login another role, from its next call on.

    Example: plugsky login role alice operator
    """
    login = ask(root, lambda admin: admin.login_role(name, role))
    if as_json:
        tell_json("plugsky.login.role/1", msgspec.to_builtins(login))
    else:
        say(f"{login.name} is {login.role}.")


@app.command()
def reset(name: NameArgument, root: RootOption = None, as_json: JsonFlag = False) -> None:
    """Make new codes, and where it is the site's a new password, for who lost theirs. Every session of the login ends.

    Example: plugsky login reset alice
    """
    _tell_new(ask(root, lambda admin: admin.login_reset(name)), "plugsky.login.reset/1", as_json=as_json)


@app.command()
def remove(name: NameArgument, root: RootOption = None, as_json: JsonFlag = False) -> None:
    """End a login and all its sessions.

    Example: plugsky login remove alice
    """
    login = ask(root, lambda admin: admin.login_remove(name))
    if as_json:
        tell_json("plugsky.login.remove/1", msgspec.to_builtins(login))
    else:
        say(f"{login.name} cannot log in any more.")


def _tell_new(made: NewLogin, schema: str, *, as_json: bool) -> None:
    if as_json:
        tell_json(schema, msgspec.to_builtins(made))
        return
    say(f"{made.name} is {made.role}. Shown once, so pass it on now:")
    if made.password:
        tell(f"password       {made.password}")
    tell(f"authenticator  {made.uri}")
    if made.password:
        say(f"They choose a password of their own with: plugsky login password {made.name}")


def _read(token: Path) -> str:
    try:
        with sys.stdin.buffer if str(token) == "-" else token.open("rb") as file:
            return file.read(MAX_TOKEN).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlugskyError(ErrorKind.BAD_REQUEST, f"{token} cannot be read.", why=str(error)) from error


def _asked(prompt: str) -> str:
    return getpass.getpass(prompt)
