"""What commands print: aligned columns, honest sizes, progress that is never silent and never floods."""

import io
import json

import pytest

from plugsky.cli import output
from plugsky.cli.output import ProgressStyle, size, table
from plugsky_bundles.progress import ProgressEvent


def test_columns_are_aligned_and_numbers_stand_to_the_right(capsys):
    table(("name", "count"), [("a", 5), ("longer", 1200)])
    assert capsys.readouterr().out == "name    count\na           5\nlonger   1200\n"


def test_an_empty_table_still_shows_its_headings(capsys):
    table(("name", "count"), [])
    assert capsys.readouterr().out == "name  count\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (98_362_432, "98.4 MB"),
        (4_000_000_000, "4.0 GB"),
        (10**13, "10.0 TB"),
    ],
)
def test_sizes_are_those_of_a_sticks_label(count, text):
    assert size(count) == text


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


def test_on_a_terminal_one_line_is_rewritten_and_ended(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(output.sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    show = output.progress(ProgressStyle.AUTO)
    show(ProgressEvent("copy", 0, 3))
    show(ProgressEvent("copy", 3, 3))
    assert screen.getvalue().count("\r") == 2
    assert screen.getvalue().endswith("\n")
