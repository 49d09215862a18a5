"""What the operator's terminal can do, decided once and in one place.

In order:

1. No terminal on stdin, stdout and stderr (Textual reads the first and paints on the last), ``TERM=dumb``, or a wish
   for plain output: no full screen, :mod:`plugsky_tui.plain` speaks instead.
2. The line: ``serial`` when the terminal's device is a serial port, ``ssh`` when sshd set ``SSH_TTY``, else ``local``.
   A slower line gets a slower tick; a serial one gets no mouse, no seconds in its clock and no 24-bit colour.
3. Colour: none under ``NO_COLOR`` (no-color.org) and on the DEC terminals without any (vt52 to vt420); 24-bit or 256
   where ``TERM`` or ``COLORTERM`` says so; else the terminal's own sixteen.
4. Charset: ASCII on a serial line, on a DEC terminal and on the Linux console (its fonts lack our glyphs), and wherever
   the locale or the stream is not UTF-8.

An explicit wish beats what was found.
"""

import locale
import os
import re
import sys
from dataclasses import dataclass
from typing import Final, Literal, TextIO

from plugsky.core import env

Line = Literal["local", "ssh", "serial"]
Colour = Literal["none", "sixteen", "full"]
Charset = Literal["ascii", "unicode"]

TICKS: Final[dict[Line, float]] = {"local": 1.0, "ssh": 2.0, "serial": 5.0}
"""Seconds between two paintings of what changed."""

_SERIAL_DEVICE: Final = re.compile(r"/dev/tty[A-Z]")  # ttyS0, ttyUSB0, ttyAMA0; a virtual console is tty1
_DEC_TERMINAL: Final = re.compile(r"vt\d{2,3}(-|\Z)")
_UTF8_NAMES: Final = frozenset({"utf-8", "utf8"})


@dataclass(frozen=True)
class TerminalProfile:
    """What to draw with: colour depth, charset, seconds per tick, and whether mouse and animation are welcome."""

    colour: Colour = "full"
    charset: Charset = "unicode"
    tick: float = TICKS["local"]
    mouse: bool = True
    animation: bool = True
    full_screen: bool = True

    @property
    def shows_seconds(self) -> bool:
        """Whether the clock shows seconds; a serial line is spared the bytes."""
        return self.tick < TICKS["serial"]


@dataclass(frozen=True)
class TerminalFacts:
    """What was found: the variables, the device of the terminal (None without one) and the stream's encodings."""

    term: str = "xterm-256color"
    colorterm: str = ""
    no_color: bool = False
    ssh: bool = False
    device: str | None = "/dev/pts/0"
    locale_encoding: str = "utf-8"
    stream_encoding: str = "utf-8"


def look() -> TerminalFacts:
    """Reads the environment, the locale and the three standard streams."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return TerminalFacts(
        term=env.TERM.read() or "dumb",
        colorterm=env.COLORTERM.read() or "",
        no_color=env.NO_COLOR.read() is not None,
        ssh=env.SSH_TTY.read() is not None,
        device=_device(sys.stdin) if all(stream.isatty() for stream in streams) else None,
        locale_encoding=locale.getencoding(),
        stream_encoding=sys.stderr.encoding,
    )


def decide(
    facts: TerminalFacts,
    *,
    line: Line | None = None,
    colour: Colour | None = None,
    charset: Charset | None = None,
    plain: bool = False,
) -> TerminalProfile:
    """The profile for these facts; each wish that is given beats the fact."""
    chosen = line or _line(facts)
    return TerminalProfile(
        colour=colour or _colour(facts, chosen),
        charset=charset or _charset(facts, chosen),
        tick=TICKS[chosen],
        mouse=chosen != "serial",
        animation=chosen == "local",
        full_screen=not plain and facts.device is not None and facts.term != "dumb",
    )


def _device(stream: TextIO) -> str:
    try:
        return os.ttyname(stream.fileno())
    except OSError:  # a terminal of another mount namespace has no name here (ttyname(3), ENODEV)
        return ""


def _line(facts: TerminalFacts) -> Line:
    if facts.device is not None and _SERIAL_DEVICE.match(facts.device):
        return "serial"
    return "ssh" if facts.ssh else "local"


def _colour(facts: TerminalFacts, line: Line) -> Colour:
    if facts.no_color or _DEC_TERMINAL.match(facts.term):
        return "none"
    rich = facts.colorterm in {"truecolor", "24bit"} or facts.term.endswith(("256color", "-direct", "kitty"))
    return "full" if rich and line != "serial" else "sixteen"


def _charset(facts: TerminalFacts, line: Line) -> Charset:
    encodings = {facts.locale_encoding.lower(), facts.stream_encoding.lower()}
    if line == "serial" or facts.term == "linux" or _DEC_TERMINAL.match(facts.term) or not encodings <= _UTF8_NAMES:
        return "ascii"
    return "unicode"
