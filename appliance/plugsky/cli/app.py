"""The ``plugsky`` command: the table of nouns, and the one place where a failure becomes words and an exit code.

A command raises; :func:`run` catches. A PlugskyError or a BundleError prints what happened, why and the next command
on stderr (as one JSON object under ``--json``) and ends with its exit code. Ctrl-C ends with 130. A reader that closes
our output early, as ``| head`` does, ends the command quietly with 141, as the signal would. An exception that nobody
foresaw is a defect: it prints one line that says so and ends with 1; ``PLUGSKY_TRACEBACK=1`` shows where.
"""

import dataclasses
import difflib
import errno
import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer
from typer._click import Command, Context, HelpFormatter
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from plugsky import __version__
from plugsky.cli import next_line, streams
from plugsky.cli.output import Failure, end_status, print_failure
from plugsky.core import env
from plugsky.core.errors import ErrorKind, ExitCode, PlugskyError
from plugsky_bundles.errors import BundleError, StreamEncrypted

NOUNS: Final = {
    "trust": "Make and use the operator's keys.",
    "bundle": "Build, seal, inspect, verify and install bundles.",
    "generation": "List, activate and remove the generations of the site.",
    "custody": "Record and review who had a bundle in hand.",
    "host": "Set up, check and change the hosts of the site.",
    "serve": "Run the site: gateway, engines and administration.",
    "model": "Show, export, approve, import and remove models of the site.",
    "tenant": "Set what tenants may use, and list them.",
    "key": "Make, list, replace and revoke API keys.",
    "alias": "Give models other names, so that old programs keep theirs.",
    "person": "Give accounts of the host a role on the site.",
    "login": "Log in as yourself, and say who may.",
    "usage": "Report what was used, from the ledger.",
    "audit": "Search and verify the audit trail.",
    "console": "Open the administrator's console.",
    "doctor": "Say what is healthy and what is not.",
    "demo": "Walk the main job end to end on a real model.",
    "config": "Show settings and where each comes from.",
    "help": "Exit codes, errors, environment variables and the command reference.",
    "engine": "Run one engine process (used by serve and by systemd).",
    "gateway": "Run one gateway process (used by serve and by systemd).",
    "admin": "Run the Admin process of a host (used by systemd).",
}


class Nouns(TyperGroup):
    """The top level: knows each noun's one-line help, and imports a noun's module when it is asked for."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(NOUNS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002 - the base class's signature
        if cmd_name not in NOUNS:
            return None
        module = importlib.import_module(f"plugsky.cli.{cmd_name}")
        command: Command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        if args and args[0] not in NOUNS:
            near = difflib.get_close_matches(args[0], NOUNS, 1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - likewise
        with formatter.section("Commands"):
            formatter.write_dl(list(NOUNS.items()))


app = typer.Typer(
    cls=Nouns,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The sovereign AI cloud that fits on a USB stick.\n\nExample: plugsky bundle verify /media/usb/plugsky-demo-1",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plugsky {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    del version


def run(arguments: list[str]) -> int:
    """Run one command and give its exit code; everything it has to say is printed."""
    as_json = "--json" in arguments
    try:
        streams.make_whole()
        result = _invoke(arguments)
    except typer.Exit as ended:
        return ended.exit_code
    except ClickException as error:
        if as_json:
            print_failure(Failure("usage", error.format_message(), "", "plugsky --help"), as_json)
        else:
            end_status()
            error.show(sys.stderr)
        return ExitCode.USAGE
    except (typer.Abort, EOFError):
        print_failure(Failure("declined", "Declined; nothing was changed.", "", ""), as_json)
        return ExitCode.DECLINED
    except KeyboardInterrupt:
        print_failure(Failure("interrupted", "Interrupted.", "", ""), as_json)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        streams.give_up()
        return ExitCode.READER_GONE
    except (PlugskyError, BundleError) as error:
        failure = Failure.of(error)
        if isinstance(error, StreamEncrypted):
            advice = next_line.decrypting(error.path, arguments)
        else:
            advice = next_line.completed(failure.next, arguments, typer.main.get_command(app))
        print_failure(dataclasses.replace(failure, next=advice), as_json)
        return error.exit_code
    except OSError as error:
        failure, code = _of_os(error)
        print_failure(failure, as_json)
        return code
    except Exception as error:
        if env.TRACEBACK.read():
            raise
        why = f"{type(error).__name__} was not foreseen here; this is a defect of plugsky"
        print_failure(Failure("internal", "The command failed.", why, "PLUGSKY_TRACEBACK=1 shows where"), as_json)
        return ExitCode.FAILED
    finally:
        end_status()
    return result if isinstance(result, int) else ExitCode.OK


def _invoke(arguments: Sequence[str]) -> Any:
    """Parse and run. Typer's own ``main`` would end with codes of its own for Ctrl-C and for a reader that has gone."""
    for word in arguments:
        if not word.isascii() and any("\ud800" <= character <= "\udfff" for character in word):
            raise typer.BadParameter(f"{word!r} is not UTF-8.")
    top: Command = typer.main.get_command(app)
    with top.make_context("plugsky", list(arguments)) as context:
        return top.invoke(context)


_OF_THE_SYSTEM: Final = {
    errno.ENOSPC: ("", "free space on that file system, then run the same command again"),
    errno.EDQUOT: ("", "raise the quota or free space, then run the same command again"),
    errno.EACCES: ("", "run as the owner of that path, or choose another one"),
    errno.EPERM: ("", "run as the owner of that path, or choose another one"),
    errno.EROFS: ("the file system is mounted read-only", "choose another path"),
    errno.ENOENT: ("", "check the path"),
    errno.EISDIR: ("a file is needed there, and this is a directory", "name a file"),
    errno.ENOTDIR: ("a directory is needed there, and this is a file", "name a directory, or a path that is free"),
    errno.EEXIST: ("a directory is needed there, and this is a file", "name a directory, or a path that is free"),
    errno.ELOOP: ("its symbolic links lead in a circle", "name the directory itself"),
    errno.ENAMETOOLONG: ("no file system takes such a name", "choose a shorter one"),
}


def _of_os(error: OSError) -> tuple[Failure, int]:
    """An operating-system failure in our words: the path and the reason, and what to do about the common ones."""
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or type(error).__name__
    why, advice = _OF_THE_SYSTEM.get(error.errno or 0, ("", ""))
    kind = ErrorKind.NOT_FOUND if error.errno == errno.ENOENT else ErrorKind.INTERNAL
    return Failure(kind.wire, f"{place}{reason}.", why, advice), kind.value.exit_code
