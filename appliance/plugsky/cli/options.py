"""Options that several nouns share, and how they turn into values."""

import getpass
import os
import stat
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from plugsky.cli.output import end_status, say
from plugsky.core import env, settings
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles.fingerprint_words import read_fingerprint

MIN_PASSPHRASE: Final = 12
"""Characters; a shorter one is taken with a warning. (NIST SP 800-63B: 8 where tries are counted; here none are.)"""
_MAX_LINE: Final = 1024


def fingerprint_text(text: str) -> str:
    """A fingerprint as it stands on paper: hex in either case, or words in any spacing. A wrong word is named."""
    try:
        return read_fingerprint(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no fingerprint: {error}.") from None


def path(text: str) -> Path:
    """A path as it was typed. Nothing at all is refused: a variable that is not set must not mean this directory."""
    if not text:
        raise typer.BadParameter("it is empty.")
    return Path(text)


RootOption = Annotated[
    Path | None, typer.Option("--root", parser=path, metavar="PATH", help="The site's directory. [env: PLUGSKY_ROOT]")
]
TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", parser=path, metavar="PATH", help="The operator's trust directory. [env: PLUGSKY_TRUST]"),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        parser=path,
        metavar="PATH",
        help="A file whose first line is the passphrase. [env: PLUGSKY_PASSPHRASE_FILE]",
    ),
]
ParentOption = Annotated[
    int | None,
    typer.Option("--exit-with-parent", metavar="PID", help="End when the process PID ends, which started this one."),
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do what the plan says without asking.")]


def site(root: Path | None) -> SitePaths:
    """The site that the flag, the environment or a settings file names."""
    chosen = settings.load({"root": root}).values
    if chosen.root is None:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "No site was named.",
            why="--root is missing",
            next="add --root DIR or set PLUGSKY_ROOT",
        )
    return SitePaths.at(chosen.root, database_url=chosen.database)


def existing_site(root: Path | None) -> SitePaths:
    """Likewise, for commands that need something installed there."""
    paths = site(root)
    if not paths.current.exists():
        raise PlugskyError(
            ErrorKind.NOT_FOUND,
            f"There is no site at {paths.root}.",
            why="nothing is installed there, or the first install did not finish",
            next=command_line("bundle", "install", "BUNDLE", "--root", paths.root),
        )
    return paths


def trust_directory(trust: Path | None) -> Path:
    """The operator's trust directory that the flag, the environment or a settings file names."""
    named = settings.load({"trust": trust}).values.trust
    if named is None:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "No trust directory was named.",
            why="--trust is missing",
            next="add --trust DIR or set PLUGSKY_TRUST; plugsky trust init --out DIR makes one",
        )
    return named


def passphrase(file: Path | None, *, new: bool = False) -> bytes:
    """The passphrase of the operator's keys: from the file, the environment, or a prompt that does not echo.

    A ``new`` one is asked for twice, and a short one is taken with a warning; so is a file that others can read.
    """
    named = file or (Path(text) if (text := env.PASSPHRASE_FILE.read()) else None)
    if named is not None:
        secret = _first_line(named)
    elif (text := env.PASSPHRASE.read()) is not None:
        secret = text
    else:
        secret = _prompt(new)
    if not secret:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The passphrase is empty.",
            why="keys are encrypted at rest, always",
            next="give a passphrase by prompt, --passphrase-file or PLUGSKY_PASSPHRASE",
        )
    if new and len(secret) < MIN_PASSPHRASE:
        say(f"warning: the passphrase has fewer than {MIN_PASSPHRASE} characters; whoever copies the keys can guess it")
    return secret.encode()


def token_pin(file: Path | None) -> str:
    """The PIN of a token in a hardware module: from the file, the environment, or a prompt that does not echo."""
    named = file or (Path(text) if (text := env.HSM_PIN_FILE.read()) else None)
    if named is not None:
        return _first_line(named)
    if (text := env.HSM_PIN.read()) is not None:
        return text
    if not sys.stdin.isatty():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The PIN of a token is needed and nobody is there to type it.",
            why="standard input is no terminal",
            next="add --hsm-pin-file FILE or set PLUGSKY_HSM_PIN",
        )
    end_status()
    return getpass.getpass("PIN of the token: ")


def _first_line(file: Path) -> str:
    with file.open("rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        line = stream.readline(_MAX_LINE + 1)
    if stat.S_ISREG(mode) and mode & 0o077:
        say(f"warning: others can read {file}; chmod 600 keeps it to its owner")
    try:
        if len(line) <= _MAX_LINE:
            return line.decode().removesuffix("\n")
        why = f"its first line has more than {_MAX_LINE} bytes"
    except UnicodeDecodeError as error:
        why = f"byte {error.start} of its first line is not UTF-8"
    raise PlugskyError(
        ErrorKind.BAD_REQUEST,
        f"{file} holds no secret that can be used.",
        why=why,
        next="name a text file with it as its first line",
    )


def _prompt(new: bool) -> str:
    if not sys.stdin.isatty():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "A passphrase is needed and nobody is there to type it.",
            why="standard input is no terminal",
            next="add --passphrase-file FILE or set PLUGSKY_PASSPHRASE",
        )
    end_status()
    first = getpass.getpass("Passphrase of the operator's keys: ")
    if new and getpass.getpass("The same again: ") != first:
        raise PlugskyError(ErrorKind.BAD_REQUEST, "The two passphrases differ.", next="run the same command again")
    return first
