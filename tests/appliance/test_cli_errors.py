"""Every failure of a command: what happened, why, the next command, and the documented exit code."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

import plugsky.cli
from plugsky.cli import app as cli
from plugsky.cli import error_codes
from plugsky.core.errors import EXIT_CODES, ErrorKind, ExitCode, PlugskyError
from plugsky_bundles.errors import DigestMismatch


def failing(monkeypatch, error):
    def command(_arguments):
        raise error

    monkeypatch.setattr(cli, "_invoke", command)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(PlugskyError(ErrorKind.NOT_FOUND, "No.", why="w", next="n"), ExitCode.NOT_FOUND, id="not found"),
        pytest.param(PlugskyError(ErrorKind.POLICY_REFUSED, "No."), ExitCode.REFUSED_BY_POLICY, id="policy"),
        pytest.param(
            DigestMismatch("A file", "was changed", "Copy it"), ExitCode.VERIFICATION_FAILED, id="verification"
        ),
        pytest.param(KeyboardInterrupt(), ExitCode.INTERRUPTED, id="Ctrl-C"),
        pytest.param(OSError(errno.ENOSPC, "No space left", "/site"), ExitCode.FAILED, id="a full disk"),
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file", "/x"), ExitCode.NOT_FOUND, id="a missing file"),
        pytest.param(ValueError("surprise"), ExitCode.FAILED, id="a defect"),
    ],
)
def test_each_failure_ends_with_its_documented_code_and_words(monkeypatch, capsys, error, code):
    failing(monkeypatch, error)
    assert cli.run(["anything"]) == code
    assert code in EXIT_CODES
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")


def test_a_failure_says_what_why_and_next(monkeypatch, capsys):
    failing(monkeypatch, PlugskyError(ErrorKind.CONFLICT, "Port 80 is in use.", why="a web server", next="--port 0"))
    cli.run(["serve"])
    assert capsys.readouterr().err == "error: Port 80 is in use.\n  why:  a web server\n  next: --port 0\n"


def test_under_json_a_failure_is_one_object_with_a_code(monkeypatch, capsys):
    failing(monkeypatch, DigestMismatch("A file", "was changed", "Copy it"))
    cli.run(["bundle", "verify", "x", "--json"])
    body = json.loads(capsys.readouterr().err)
    assert body["schema"] == "plugsky.error/1"
    assert body["error"]["code"] == "digest_mismatch"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["bundel"], id="a noun that there is not"),
        pytest.param(["bundle", "verify", "b", "--pin", "x"], id="a value that is none"),
        pytest.param(["bundle", "verify", "/nowhere"], id="a bundle that is not there"),
        pytest.param(["help", "exit-codes"], id="a defect"),
        pytest.param(["trust", "show", "--trust", "/nowhere"], id="a directory that is not there"),
    ],
)
def test_what_fails_under_json_prints_one_object_of_the_documented_form_on_stderr(monkeypatch, capsys, words):
    if words[0] == "help":
        failing(monkeypatch, ValueError("surprise"))
    code = cli.run([*words, "--json"])
    told = capsys.readouterr()
    assert told.out == ""
    body = json.loads(told.err)
    assert body.keys() == set(error_codes.FORM["required"])
    assert body["schema"] == error_codes.FORM["properties"]["schema"]["const"]
    form = error_codes.FORM["properties"]["error"]
    assert body["error"].keys() == set(form["required"]) == form["properties"].keys()
    assert all(isinstance(text, str) and "\n" not in text for text in body["error"].values())
    assert (body["error"]["code"], code) in {(known.code, known.exit_code) for known in error_codes.table()}


def test_every_error_of_a_site_and_of_a_bundle_is_in_the_table_with_its_meaning():
    known = {code.code: code for code in error_codes.table()}
    for kind in ErrorKind:
        assert known[kind.wire].exit_code == kind.value.exit_code
    assert known["digest_mismatch"].exit_code == DigestMismatch.exit_code
    assert [code.code for code in known.values() if not code.about.endswith(".")] == []
    assert {code.exit_code for code in known.values()} <= EXIT_CODES.keys()


def test_a_defect_shows_where_it_happened_when_asked(monkeypatch):
    failing(monkeypatch, ValueError("surprise"))
    monkeypatch.setenv("PLUGSKY_TRACEBACK", "1")
    with pytest.raises(ValueError, match="surprise"):
        cli.run(["anything"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        pytest.param(["bundel"], "bundle", id="a noun"),
        pytest.param(["bundle", "verfy"], "verify", id="a verb"),
        pytest.param(["bundle", "verify", "--pni"], "--pin", id="an option"),
    ],
)
def test_a_slip_of_the_keyboard_is_answered_with_what_was_meant(capsys, words, hint):
    assert cli.run(words) == ExitCode.USAGE
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("noun", list(cli.NOUNS))
def test_every_noun_has_help_with_an_example(capsys, noun):
    assert cli.run([noun, "--help"]) == ExitCode.OK
    assert "Usage: plugsky" in capsys.readouterr().out


def test_a_site_that_is_not_named_is_asked_for(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("PLUGSKY_ROOT", raising=False)
    monkeypatch.setattr("plugsky.core.settings.SYSTEM_ROOT", tmp_path / "nowhere")
    assert cli.run(["key", "list"]) == ExitCode.USAGE
    assert "--root" in capsys.readouterr().err


def test_a_directory_that_is_no_site_is_not_found(capsys, tmp_path):
    assert cli.run(["key", "list", "--root", str(tmp_path)]) == ExitCode.NOT_FOUND
    assert "plugsky bundle install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


PLUGSKY = (sys.executable, "-m", "plugsky")


@pytest.mark.integration
def test_ctrl_c_says_interrupted_and_ends_with_its_code(tmp_path):
    fifo = tmp_path / "passphrase"
    os.mkfifo(fifo)
    # A job in the background of a script inherits SIGINT ignored, and so would this test's child.
    words = ("env", "--default-signal=INT", *PLUGSKY, "trust", "init", "--out", tmp_path / "trust")
    words = (*words, "--passphrase-file", fifo)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    with fifo.open("w"):  # waits until the command waits for its passphrase
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert (process.returncode, told) == (ExitCode.INTERRUPTED, "error: Interrupted.\n")


@pytest.mark.integration
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2, 0.5])
def test_sigterm_in_the_first_second_of_an_installation_ends_with_a_documented_code_and_nothing_made(tmp_path, moment):
    words = (*PLUGSKY, "bundle", "install", "-", "--root", tmp_path / "site", "--yes", "--pin", "0" * 64)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(moment)
        process.terminate()
        process.stderr.read()
        code = process.wait(30)
    as_the_shell_says = 128 - code if code < 0 else code
    assert as_the_shell_says in {ExitCode.TERMINATED, ExitCode.INTERRUPTED} & EXIT_CODES.keys()
    assert not (tmp_path / "site").exists()


def test_ctrl_c_before_anything_is_imported_shows_no_traceback(monkeypatch, capsys):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        plugsky.cli.main()
    assert ended.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "error: Interrupted.\n"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        pytest.param("trust init --out t <&-", ExitCode.USAGE, "--passphrase-file", id="stdin closed"),
        pytest.param("help exit-codes >&-", ExitCode.USAGE, "Standard output is closed", id="stdout closed"),
        pytest.param("help exit-codes 2>&-", ExitCode.OK, "", id="stderr closed"),
        pytest.param("help reference | true", ExitCode.READER_GONE, "", id="a reader that leaves"),
        pytest.param(r"key create --tenant a --name $'\xff'", ExitCode.USAGE, "not UTF-8", id="not UTF-8"),
        pytest.param("key list --root ''", ExitCode.USAGE, "it is empty", id="an empty root"),
        pytest.param("key list --root $PWD/file", ExitCode.NOT_FOUND, "bundle install", id="a file as root"),
        pytest.param(
            "trust init --out t --passphrase-file $PWD", ExitCode.FAILED, "name a file", id="a directory for a file"
        ),
        pytest.param(
            "trust init --out file/t --passphrase-file file", ExitCode.FAILED, "next: name a directory", id="a file"
        ),
        pytest.param(
            "trust init --out t --passphrase-file binary", ExitCode.USAGE, "is not UTF-8", id="a binary passphrase"
        ),
    ],
)
def test_a_shell_that_hands_over_something_odd_is_answered_in_words(tmp_path, shell, code, words):
    (tmp_path / "file").write_text("correct horse\n")
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe\n")
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(PLUGSKY)} {shell}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PLUGSKY_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "was not foreseen" not in done.stderr
