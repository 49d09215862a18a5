"""Bytes as people read them: one system of units, that of a stick's label, wherever they are told."""

import re
from pathlib import Path

import pytest

from plugsky_bundles.atomic import full
from plugsky_bundles.readback import file_system
from plugsky_bundles.sizes import shortage, size, sizes

ROOT = Path(__file__).parents[2]


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


def test_two_sizes_that_would_read_the_same_are_told_to_the_byte():
    assert sizes(4_294_967_295, 1000) == ("4.3 GB", "1.0 kB")
    assert sizes(4_294_967_295, 4_294_967_296) == ("4294967295 bytes", "4294967296 bytes")
    assert sizes(5000, 5000) == ("5.0 kB", "5.0 kB")


def test_a_shortage_is_told_with_both_numbers():
    assert shortage(630_600_000, 60_000_000, "on /srv") == "it needs 630.6 MB, 60.0 MB are free on /srv"


def test_nothing_is_told_in_binary_units():
    """They stand in comments and specifications, where limits are powers of two; never in a text with a value in it."""
    told = re.compile(r"""\bf".*\}\s?[KMGT]iB\b""")
    modules = [path for room in ("appliance", "bundles", "tui") for path in (ROOT / room).rglob("*.py")]
    assert len(modules) > 200
    found = [
        f"{path.name}: {line.strip()}"
        for path in modules
        for line in path.read_text().splitlines()
        if told.search(line)
    ]
    assert found == []


def test_a_full_disk_is_named_with_what_is_left_and_what_was_to_be_written(tmp_path):
    error = full(tmp_path / "not/there yet", "The Python environment", 451_200_000)
    assert error.what == "The Python environment could not be written"
    mount = file_system(tmp_path).mount
    assert re.fullmatch(rf"the disk is full: [0-9.]+ \w?B of [0-9.]+ \w?B are left on {mount}", error.why)
    assert error.next == f"Free about 451.2 MB on {mount} and run it again"
    assert full(tmp_path / "x").what == f"{tmp_path}/x could not be written"
