"""The command reference, made from the commands themselves; a test holds ``docs/cli/reference.md`` to this text."""

import importlib
import json
from collections.abc import Iterator
from typing import Final

import typer
from typer._click import Command, Context
from typer.core import TyperGroup

from plugsky.cli import error_codes
from plugsky.core import env
from plugsky.core.errors import EXIT_CODES

_WIDTH: Final = 100


def markdown() -> str:
    """The reference of every command, exit code and environment variable."""
    main = importlib.import_module("plugsky.cli.app")
    top = typer.main.get_command(main.app)
    parts = ["# Command reference", "", "Made by `plugsky help reference`; do not edit.", ""]
    for name, text in _pages(top, "plugsky", None):
        parts += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    parts += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    parts += [f"| {code} | {about} |" for code, about in EXIT_CODES.items()]
    parts += ["", "## Errors as JSON", "", *_errors()]
    parts += ["", "## Environment variables", "", "| variable | what it is for |", "|---|---|"]
    parts += [f"| `{one.name}` | {one.about} |" for one in env.ALL]
    return "\n".join(parts)


def _errors() -> Iterator[str]:
    yield "Under `--json` a command that fails prints nothing on stdout and this one object on stderr, on a line of its"
    yield "own. Lines of `--progress json` may come before it; their schema is `plugsky.progress/1`."
    yield from ("", "```json", json.dumps(error_codes.FORM, indent=2), "```", "")
    yield from ("| code | exit code | meaning |", "|---|---|---|")
    for code in error_codes.table():
        yield f"| `{code.code}` | {code.exit_code} | {code.about} |"


def _pages(command: Command, name: str, parent: Context | None) -> Iterator[tuple[str, str]]:
    context = Context(command, info_name=name, parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH)
    path = name if parent is None else f"{parent.command_path} {name}"
    yield path, command.get_help(context)
    if isinstance(command, TyperGroup):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _pages(found, child, context)
