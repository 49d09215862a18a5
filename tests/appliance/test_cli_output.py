"""What commands print: aligned columns, progress that is never silent and never floods."""

import json
import os
import signal
import sys

import pytest

from plugsky.cli import output
from plugsky.cli.output import ProgressStyle, table
from plugsky.cli.status_line import fitted
from plugsky.core.errors import ExitCode
from plugsky_bundles.progress import ProgressEvent
from pseudo_terminal import Terminal


def test_columns_are_aligned_and_numbers_stand_to_the_right(capsys):
    table(("name", "count"), [("a", 5), ("longer", 1200)])
    assert capsys.readouterr().out == "name    count\na           5\nlonger   1200\n"


def test_an_empty_table_still_shows_its_headings(capsys):
    table(("name", "count"), [])
    assert capsys.readouterr().out == "name  count\n"


def test_plain_progress_shows_the_start_the_tenths_and_the_end(capsys, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(output.time, "monotonic", lambda: next(ticks) * 0.15)
    show = output.progress(ProgressStyle.PLAIN)
    for done in range(0, 1001, 5):
        show(ProgressEvent("copy", done * 10**6, 1000 * 10**6, "model.gguf"))
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 20
    assert "100 %" in lines[-1]
    assert "MB/s" in lines[-1]


def test_progress_under_way_says_how_long_it_will_take(capsys, monkeypatch):
    ticks = iter((0.0, 2.5))
    monkeypatch.setattr(output.time, "monotonic", lambda: next(ticks))
    show = output.progress(ProgressStyle.PLAIN)
    show(ProgressEvent("copy", 0, 100_000_000))
    show(ProgressEvent("copy", 50_000_000, 100_000_000))
    assert "20.0 MB/s" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "2 s left" in line


def test_json_progress_is_one_object_a_line(capsys):
    output.progress(ProgressStyle.JSON)(ProgressEvent("copy", 1, 2, "x"))
    body = json.loads(capsys.readouterr().err)
    assert body == {"schema": "plugsky.progress/1", "stage": "copy", "done": 1, "total": 2, "item": "x"}


def test_no_progress_means_none(capsys):
    output.progress(ProgressStyle.NONE)(ProgressEvent("copy", 1, 2))
    assert capsys.readouterr().err == ""


WORK = """
import itertools, signal, sys
from plugsky.cli import app, output
from plugsky_bundles.progress import ProgressEvent

def command(_arguments):
    output.time.monotonic = itertools.count(0.0, 0.11).__next__
    show = output.progress(output.ProgressStyle.AUTO)
    for item in ("models/smollm2-135m-instruct/SmolLM2-135M-Instruct-Q8_0.gguf", "models/" + "\u6a21" * 60):
        for done in range(101):
            show(ProgressEvent("verify", done * 1_638_000, 163_800_000, item))
    show(ProgressEvent("rehearse", 0, 0, "this host: python"))
    signal.pause()

app._invoke = command
sys.exit(app.run([]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("columns", [80, 40, 17])
def test_on_a_terminal_one_line_is_rewritten_within_its_width_and_ended_before_an_error(columns):
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    terminal = Terminal([sys.executable, "-c", WORK], variables, columns=columns)
    terminal.until("rehearse")
    assert terminal.written.count(b"\r") > 100
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.exit_code() == ExitCode.INTERRUPTED
    lines = [line.rstrip() for line in terminal.screen().splitlines() if line.strip()]
    begun = [line.strip().split()[0] for line in lines[:2]]
    assert begun == ["verify", "rehearse"]
    assert "".join(lines[2:]) == "error: Interrupted."
    if columns >= 40:
        assert lines[0].startswith("  verify  163.8 MB of 163.8 MB (100 %)")
        assert lines[1] == "  rehearse  this host: python"


def test_what_does_not_fit_into_the_line_is_left_out_or_cut():
    parts = ["verify", "1.0 MB of 2.0 MB (50 %)", "9.9 MB/s", "models/tiny.gguf"]
    assert fitted(parts, 80) == "verify  1.0 MB of 2.0 MB (50 %)  9.9 MB/s  models/tiny.gguf"
    assert fitted(parts, 52) == "verify  1.0 MB of 2.0 MB (50 %)  9.9 MB/s  models/t…"
    assert fitted(parts, 49) == "verify  1.0 MB of 2.0 MB (50 %)  9.9 MB/s"
    assert fitted(parts, 5) == "veri…"


def test_a_name_cannot_speak_to_the_terminal_and_wide_letters_count_twice():
    assert fitted(["copy", "a\x1b[2Jb"], 40) == "copy  a\\x1b[2Jb"
    assert fitted(["copy", "\u6a21" * 20], 21) == "copy  " + "\u6a21" * 7 + "…"
