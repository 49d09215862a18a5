"""The console on a real pseudo-terminal: what Pilot cannot see, byte by byte."""

import os
import re
import signal
import sys
import termios
from pathlib import Path

import pytest

from pseudo_terminal import Terminal

pytestmark = pytest.mark.integration

FAKE_SITE = Path(__file__).with_name("fake_site.py")
COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


@pytest.fixture
def terminal():
    opened = []

    def open_terminal(*arguments, **variables):
        command = [sys.executable, str(FAKE_SITE), *arguments]
        opened.append(Terminal(command, {"PYTHONPATH": os.pathsep.join(sys.path), **variables}))
        return opened[-1]

    yield open_terminal
    for child in opened:
        child.process.kill()
        child.process.wait()
        os.close(child.master)


def assert_restored(child: Terminal) -> None:
    """The terminal is as it was: main screen, cursor shown, no mouse, line mode."""
    assert child.written.rindex(b"\x1b[?1049l") > child.written.rindex(b"\x1b[?1049h")
    assert child.written.rindex(b"\x1b[?25h") > child.written.rindex(b"\x1b[?25l")
    if b"\x1b[?1000h" in child.written:
        assert child.written.rindex(b"\x1b[?1000l") > child.written.rindex(b"\x1b[?1000h")
    assert termios.tcgetattr(child.master)[:4] == child.modes[:4]


def test_it_starts_paints_and_leaves_the_terminal_as_it_was(terminal):
    child = terminal("busy", TERM="xterm-256color", COLORTERM="truecolor")
    child.until("Isolation")
    child.until("smollm2-135m-instruct")
    assert COLOUR.search(child.written)
    child.press(b"q")
    assert child.exit_code() == 0
    assert_restored(child)


def test_under_no_color_no_colour_is_sent(terminal):
    child = terminal("failing", TERM="xterm-256color", COLORTERM="truecolor", NO_COLOR="1")
    child.until("NOT PROVEN")
    child.press(b"?")
    child.until("Esc closes this help")
    child.press(b"?")
    child.until("q Quit")
    child.press(b"q")
    assert child.exit_code() == 0
    assert b"38;2" not in child.written
    assert COLOUR.findall(child.written) == []


@pytest.mark.parametrize(
    ("about", "arguments", "variables"),
    [
        ("a DEC terminal", ("failing",), {"TERM": "vt220"}),
        ("the Linux console", ("busy",), {"TERM": "linux"}),
        ("a serial line", ("busy", "serial"), {"TERM": "xterm-256color"}),
        ("a locale without UTF-8", ("busy",), {"TERM": "xterm-256color", "LC_ALL": "C"}),
    ],
)
def test_where_there_is_no_utf8_every_byte_is_ascii(about, arguments, variables, terminal):
    child = terminal(*arguments, **variables)
    child.until("Requests")
    child.until("q Quit")
    child.press(b"?")
    child.until("Esc closes this help")
    child.press(b"qq")
    assert child.exit_code() == 0
    assert child.written.isascii(), about


def test_control_c_leaves_with_the_terminal_restored(terminal):
    child = terminal("busy", TERM="xterm-256color")
    child.until("PROVEN")
    child.press(b"\x03")
    assert child.exit_code() == 0
    assert_restored(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_told_to_end_it_restores_the_terminal(number, terminal):
    child = terminal("busy", TERM="xterm-256color")
    child.until("PROVEN")
    child.process.send_signal(number)
    assert child.exit_code() == 0
    assert_restored(child)


def test_a_failure_of_the_console_itself_restores_the_terminal(terminal):
    child = terminal("busy", "broken", TERM="xterm-256color")
    assert child.exit_code() == 1
    assert_restored(child)
    assert b"the console failed" in child.written


def test_a_dumb_terminal_gets_plain_lines(terminal):
    child = terminal("busy", TERM="dumb")
    child.until("Choose:")
    child.press(b"q\n")
    assert child.exit_code() == 0
    assert b"\x1b" not in child.written
    assert b"Isolation: proven." in child.written


def test_on_a_serial_line_a_tick_costs_less_than_the_line_carries_in_it(terminal):
    child = terminal("busy", "serial", TERM="vt220")
    child.until("18,205")
    before = len(child.written)
    child.until("18,206")
    assert 0 < len(child.written) - before < 960
