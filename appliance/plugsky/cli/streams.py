"""The three standard streams, whole before a command runs, whatever the shell left closed.

A closed one would leave its number to the next file that is opened, and Python has None in its place. Standard input
and the talk on stderr are then nobody's: both become ``/dev/null``. A closed stdout is a failure before anything is
done, because the answer would be lost. Text that is not UTF-8 (the name of a file may be any bytes) is shown escaped.
"""

import io
import os
import sys

from plugsky.core.errors import ErrorKind, PlugskyError


def make_whole() -> None:
    """Open what is closed. Raises BAD_REQUEST when that is stdout."""
    lost = sys.stdout is None
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if lost:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "Standard output is closed.",
            why="the command's answer would be lost; nothing was done",
            next="give it somewhere to go, for example > FILE",
        )


def give_up() -> None:
    """Forget what is still to be written: whoever read it has gone, and the end of the process must not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
