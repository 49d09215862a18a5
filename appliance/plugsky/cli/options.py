"""Options that several nouns share, and how they turn into values."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from plugsky.core import env, settings
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths

RootOption = Annotated[Path | None, typer.Option("--root", help="The site's directory. [env: PLUGSKY_ROOT]")]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", help="The operator's trust directory. [env: PLUGSKY_TRUST]")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file whose first line is the passphrase. [env: PLUGSKY_PASSPHRASE_FILE]"),
]
ParentOption = Annotated[
    int | None,
    typer.Option("--exit-with-parent", metavar="PID", help="End when the process PID ends, which started this one."),
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do what the plan says without asking.")]


def site(root: Path | None) -> SitePaths:
    """The site that the flag, the environment or a settings file names."""
    named = settings.load({"root": root}).values.root
    if named is None:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "No site was named.",
            why="--root is missing",
            next="add --root DIR or set PLUGSKY_ROOT",
        )
    return SitePaths.at(named)


def existing_site(root: Path | None) -> SitePaths:
    """Likewise, for commands that need something installed there."""
    paths = site(root)
    if not paths.current.exists():
        raise PlugskyError(
            ErrorKind.NOT_FOUND,
            f"There is no site at {paths.root}.",
            why="nothing is installed there, or the first install did not finish",
            next=f"plugsky bundle install BUNDLE --root {paths.root}",
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


def passphrase(file: Path | None, *, confirm: bool = False) -> bytes:
    """The passphrase of the operator's keys: from the file, the environment, or a prompt that does not echo."""
    named = file or (Path(text) if (text := env.PASSPHRASE_FILE.read()) else None)
    if named is not None:
        secret = named.read_text(encoding="utf-8").split("\n", 1)[0]
    elif (text := env.PASSPHRASE.read()) is not None:
        secret = text
    else:
        secret = _prompt(confirm)
    if not secret:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The passphrase is empty.",
            why="keys are encrypted at rest, always",
            next="give a passphrase by prompt, --passphrase-file or PLUGSKY_PASSPHRASE",
        )
    return secret.encode()


def _prompt(confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "A passphrase is needed and nobody is there to type it.",
            why="standard input is no terminal",
            next="add --passphrase-file FILE or set PLUGSKY_PASSPHRASE",
        )
    first = getpass.getpass("Passphrase of the operator's keys: ")
    if confirm and getpass.getpass("The same again: ") != first:
        raise PlugskyError(ErrorKind.BAD_REQUEST, "The two passphrases differ.", next="run the same command again")
    return first
