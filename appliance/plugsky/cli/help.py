"""``plugsky help``: what holds for every command, generated from the code that holds it."""

import typer

from plugsky.cli import api_page, error_codes
from plugsky.cli import reference as pages
from plugsky.cli.output import JsonFlag, table, tell, tell_json
from plugsky.core import env
from plugsky.core.errors import EXIT_CODES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Exit codes, errors, environment variables, reference.",
)


@app.command("exit-codes")
def exit_codes(as_json: JsonFlag = False) -> None:
    """What the exit code of a command means.

    Example: plugsky help exit-codes
    """
    if as_json:
        tell_json("plugsky.help.exit-codes/1", {"exit_codes": {str(code): about for code, about in EXIT_CODES.items()}})
    else:
        table(("code", "meaning"), EXIT_CODES.items())


@app.command()
def errors(as_json: JsonFlag = False) -> None:
    """What an error is called under --json, the exit code that goes with it, and what it means.

    Under --json a command that fails prints nothing on stdout and one object plugsky.error/1 on stderr, on a line of
    its own; --json here has its JSON Schema.

    Example: plugsky help errors --json
    """
    codes = error_codes.table()
    if as_json:
        body = {"form": error_codes.FORM, "errors": [code._asdict() for code in codes]}
        tell_json("plugsky.help.errors/1", body)
    else:
        table(("code", "exit code", "meaning"), codes)


@app.command()
def environment(as_json: JsonFlag = False) -> None:
    """Every environment variable that plugsky reads.

    Example: plugsky help environment
    """
    if as_json:
        tell_json("plugsky.help.environment/1", {"variables": {one.name: one.about for one in env.ALL}})
    else:
        table(("variable", "what it is for"), [(one.name, one.about) for one in env.ALL])


@app.command()
def reference(as_json: JsonFlag = False) -> None:
    """The whole command reference as Markdown, made from the commands themselves.

    Example: plugsky help reference > reference.md
    """
    text = pages.markdown()
    tell_json("plugsky.help.reference/1", {"markdown": text}) if as_json else tell(text)


@app.command()
def api(as_json: JsonFlag = False) -> None:
    """What the HTTP API honours, accepts without effect and refuses, as Markdown, made from what reads the requests.

    Example: plugsky help api > api.md
    """
    text = api_page.markdown()
    tell_json("plugsky.help.api/1", {"markdown": text}) if as_json else tell(text)
