"""The terminal profile: what is decided from what was found."""

import pytest

from plugsky_tui.terminal import TerminalFacts, TerminalProfile, decide, look

FULL = TerminalProfile()
SSH = TerminalProfile(tick=2.0, animation=False)
SERIAL = TerminalProfile(colour="none", charset="ascii", tick=5.0, mouse=False, animation=False)


def changed(profile, **changes):
    return TerminalProfile(**{**vars(profile), **changes})


@pytest.mark.parametrize(
    ("about", "facts", "expected"),
    [
        ("a desktop terminal", TerminalFacts(), FULL),
        ("24-bit colour by COLORTERM", TerminalFacts(term="xterm", colorterm="truecolor"), FULL),
        ("a terminal of sixteen colours", TerminalFacts(term="xterm"), changed(FULL, colour="sixteen")),
        ("NO_COLOR", TerminalFacts(no_color=True), changed(FULL, colour="none")),
        ("NO_COLOR beside COLORTERM", TerminalFacts(no_color=True, colorterm="24bit"), changed(FULL, colour="none")),
        ("over SSH", TerminalFacts(ssh=True), SSH),
        ("a serial line", TerminalFacts(term="vt220", device="/dev/ttyS0"), SERIAL),
        ("a serial line over USB", TerminalFacts(term="vt102", device="/dev/ttyUSB1"), SERIAL),
        (
            "a serial line with an emulator that shows colour",
            TerminalFacts(device="/dev/ttyAMA0"),
            changed(SERIAL, colour="sixteen"),
        ),
        (
            "the Linux console",
            TerminalFacts(term="linux", device="/dev/tty1"),
            changed(FULL, colour="sixteen", charset="ascii"),
        ),
        ("a locale that is not UTF-8", TerminalFacts(locale_encoding="ANSI_X3.4-1968"), changed(FULL, charset="ascii")),
        ("a stream that is not UTF-8", TerminalFacts(stream_encoding="latin-1"), changed(FULL, charset="ascii")),
        ("TERM=dumb", TerminalFacts(term="dumb"), changed(FULL, colour="sixteen", full_screen=False)),
        ("no terminal", TerminalFacts(device=None), changed(FULL, full_screen=False)),
        ("a terminal without a name", TerminalFacts(device=""), FULL),
    ],
)
def test_what_was_found_decides(about, facts, expected):
    assert decide(facts) == expected, about


def test_a_wish_beats_what_was_found():
    facts = TerminalFacts(term="linux", device="/dev/tty1", ssh=True)
    wished = decide(facts, line="serial", colour="full", charset="unicode", plain=True)
    assert wished == changed(SERIAL, colour="full", charset="unicode", full_screen=False)


def test_only_a_serial_line_is_spared_the_seconds():
    assert [profile.shows_seconds for profile in (FULL, SSH, SERIAL)] == [True, True, False]


def test_a_pipe_is_no_terminal(monkeypatch, capfd):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    facts = look()
    assert facts.device is None
    assert facts.no_color
    assert not decide(facts).full_screen
