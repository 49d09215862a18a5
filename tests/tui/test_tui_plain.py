"""The console in plain lines."""

import io

from plugsky_tui import plain, run
from plugsky_tui.terminal import TerminalProfile
from tui.fake_site import BUSY, CASES, FakeSite, unreachable


class Unreachable(FakeSite):
    async def home(self):
        raise unreachable()


def said(site, typed):
    out = io.StringIO()
    plain.run(site, io.StringIO(typed), out)
    return out.getvalue()


def test_home_is_said_in_lines_that_can_be_read_aloud(snapshot):
    snapshot("plain-busy", said(FakeSite(last=BUSY), "q\n"))


def test_trouble_is_said_first(snapshot):
    snapshot("plain-failing", said(FakeSite(last=CASES["failing"]), "q\n"))


def test_missing_figures_are_said_to_be_unknown():
    text = said(FakeSite(last=CASES["empty"]), "q\n")
    assert "Processor: unknown." in text
    assert "Traffic: unknown, the gateway is not running." in text


def test_only_ascii_is_spoken():
    assert said(FakeSite(last=CASES["failing"]), "q\n").isascii()


def test_one_asks_again_and_q_leaves():
    text = said(FakeSite(), "1\n\nq\n1\n")
    assert text.count("Plugsky on vault-7") == 2
    assert text.count("Choose: ") == 3


def test_the_end_of_the_input_leaves():
    assert said(FakeSite(), "").endswith("Choose: \n")


def test_an_unknown_choice_is_named():
    assert "There is no '7' in the menu." in said(FakeSite(), "7\nq\n")


def test_a_site_that_does_not_run_is_said_with_the_next_command():
    text = said(Unreachable(), "q\n")
    assert "The site at /srv/site is not running." in text
    assert "Next: plugsky serve --root /srv/site" in text


def test_a_profile_without_a_full_screen_speaks(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    run(FakeSite(), TerminalProfile(full_screen=False))
    assert "Isolation: proven." in capsys.readouterr().out
