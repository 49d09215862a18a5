"""The next line of a failure or of a success: a command that works when it is typed, or words that are none."""

import shlex
from types import SimpleNamespace

import pytest
import typer

from plugsky.admin import health
from plugsky.admin.api import ModelView
from plugsky.cli import app as cli
from plugsky.cli import next_line, options
from plugsky.core.commands import command_line, given
from plugsky.core.errors import ErrorKind, ExitCode, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles.errors import Busy
from plugsky_bundles.fingerprint_words import to_words

TOP = typer.main.get_command(cli.app)


def test_what_a_shell_would_take_apart_is_quoted():
    shown = command_line("bundle", "seal", "/media/my stick", *given(trust="/a b", passphrase_file=None))
    assert shlex.split(shown) == ["plugsky", "bundle", "seal", "/media/my stick", "--trust", "/a b"]


@pytest.mark.parametrize(
    ("advice", "typed", "expected"),
    [
        pytest.param("plugsky key list", ["--root", "/s"], "plugsky key list --root /s", id="the site is carried"),
        pytest.param("plugsky doctor", ["--root=/a b"], "plugsky doctor --root '/a b'", id="and quoted"),
        pytest.param("plugsky doctor", [], "plugsky doctor", id="the environment names it again"),
        pytest.param("plugsky doctor --root /t", ["--root", "/s"], "plugsky doctor --root /t", id="named already"),
        pytest.param("plugsky help", ["--root", "/s"], "plugsky help", id="a group"),
        pytest.param("plugsky help exit-codes", ["--root", "/s"], "plugsky help exit-codes", id="takes no site"),
        pytest.param("plugsky audit verify it again", ["--root", "/s"], "plugsky audit verify it again", id="words"),
        pytest.param("look at who made it", ["--root", "/s"], "look at who made it", id="no command"),
        pytest.param("it's this one", ["--root", "/s"], "it's this one", id="no shell's words"),
    ],
)
def test_advice_gets_the_options_that_the_failed_command_was_given(advice, typed, expected):
    assert next_line.completed(advice, ["key", "revoke", "x", *typed], TOP) == expected


def test_a_failure_of_a_room_is_shown_with_the_site_it_was_about(monkeypatch, capsys):
    def failing(_arguments):
        raise PlugskyError(ErrorKind.NOT_FOUND, "No.", next="plugsky key list")

    monkeypatch.setattr(cli, "_invoke", failing)
    cli.run(["key", "revoke", "x", "--root", "/srv/my site"])
    assert "next: plugsky key list --root '/srv/my site'\n" in capsys.readouterr().err


@pytest.mark.parametrize("pin", ["zz", "0" * 63, "sha256:" + "0" * 64, "\u0661" * 64])
def test_a_pin_that_is_no_fingerprint_is_said_to_be_none(tmp_path, capsys, pin):
    assert cli.run(["bundle", "inspect", str(tmp_path), "--pin", pin]) == ExitCode.USAGE
    assert "is no fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize("writing", [str.upper, to_words, lambda pin: to_words(pin).replace("-", "\n").upper()])
def test_a_pin_in_capitals_or_in_words_is_the_same_fingerprint(writing):
    assert options.fingerprint_text(writing("ab" * 32)) == "ab" * 32


def test_a_busy_directory_is_one_to_come_back_to():
    assert Busy("a", "b", "c").exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("secret", "mode", "warned"),
    [
        pytest.param("long enough to stand", 0o600, False, id="a good one"),
        pytest.param("short", 0o600, True, id="short"),
        pytest.param("long enough to stand", 0o644, True, id="readable by others"),
    ],
)
def test_a_weak_passphrase_is_taken_with_a_warning(tmp_path, capsys, secret, mode, warned):
    file = tmp_path / "passphrase"
    file.write_text(secret + "\n")
    file.chmod(mode)
    assert cli.run(["trust", "init", "--out", str(tmp_path / "t"), "--passphrase-file", str(file)]) == ExitCode.OK
    told = capsys.readouterr().err
    assert ("warning:" in told) is warned
    assert secret not in told


def test_an_engine_that_came_back_serves_and_is_no_failure(tmp_path):
    def state_of(state):
        model = ModelView("m", "generate", 1, 1, "MIT", (), "a" * 64, state)
        home = SimpleNamespace(
            uptime_s=1.0, models=(model,), traffic=None, isolation=SimpleNamespace(proven=True, findings=())
        )
        findings = {one.check: one for one in health.running_findings(home, SitePaths.at(tmp_path))}
        return findings["engine m"].state

    assert [state_of(state) for state in ("ready", "suspect", "crashed")] == ["ok", "ok", "failed"]
