"""The next command of a failure, made to work when it is typed.

A room does not know how its site or trust directory was named. Where its advice is a command that takes ``--root`` or
``--trust``, and the failed command was given that option, the advice gets it too. Other advice is left as it is.
What is encrypted is answered with the failed command itself, reading from age.
"""

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from typer._click import Command, Context
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

CARRIED: Final = ("--root", "--trust")


def completed(advice: str, arguments: Sequence[str], top: Command) -> str:
    """``advice`` with those of the failed command's ``arguments`` that it needs."""
    command = parsed(advice, top)
    if command is None:
        return advice
    words = shlex.split(advice)
    taken = {option for parameter in command.params for option in parameter.opts}
    for option in CARRIED:
        value = _value(option, arguments)
        if value is not None and option in taken and _value(option, words) is None:
            words += [option, value]
    return shlex.join(words)


def decrypting(encrypted: str, arguments: Sequence[str]) -> str:
    """The failed command of ``arguments``, with what comes out of age instead of the file ``encrypted`` or ``-``."""
    words = ["-" if word and Path(word) == Path(encrypted) else word for word in arguments]
    if words[:2] == ["bundle", "install"] and not {"--yes", "--dry-run"} & set(words):
        words.append("--yes")  # nobody can be asked where standard input is the bundle
    sender = "SENDER | age -d -i KEY" if encrypted == "-" else shlex.join(["age", "-d", "-i", "KEY", encrypted])
    return f"{sender} | {shlex.join(['plugsky', *words])}"


def parsed(advice: str, top: Command) -> Command | None:
    """The command that this text is, down to its last option; None where it is none."""
    with contextlib.suppress(ValueError, ClickException):
        name, *words = shlex.split(advice)
        command, context = top, Context(top, info_name=name)
        while isinstance(command, TyperGroup) and words and name == "plugsky":
            found = command.get_command(context, words[0])
            if found is None:
                return None
            command, context, words = found, Context(found, info_name=words[0], parent=context), words[1:]
        if not isinstance(command, TyperGroup):
            command.parse_args(context, words)
            return command
    return None


def _value(option: str, words: Sequence[str]) -> str | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None
