"""Numbers as an operator reads them."""

import math

import pytest

from plugsky_tui import figures
from plugsky_tui.cells import Span, plain_text
from plugsky_tui.views.table import Column, headings, row, widths


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (figures.count(0), "0"),
        (figures.count(18_204), "18,204"),
        (figures.count(9_412_077), "9.41 M"),
        (figures.count(3_100_000_000), "3.10 G"),
        (figures.count(None), "—"),
        (figures.rate(142.34), "142.3"),
        (figures.rate(1240.2), "1,240"),
        (figures.rate(math.nan), "—"),
        (figures.fraction(0.483), "48%"),
        (figures.fraction(None), "—"),
        (figures.fraction(math.inf), "—"),
        (figures.size(512), "512 B"),
        (figures.size(1000), "1.0 kB"),
        (figures.size(412_400_000), "412 MB"),
        (figures.size(7_800_000_000), "7.8 GB"),
        (figures.size(5 * 10**15), "5000 TB"),
        (figures.size(None), "—"),
        (figures.part(5_100_000_000, 7_800_000_000), "5.1 of 7.8 GB"),
        (figures.part(98_000_000, 8 * 10**9), "0.1 of 8.0 GB"),
        (figures.part(None, 10**9), "—"),
        (figures.micros(400), "0.4 ms"),
        (figures.micros(18_230), "18.2 ms"),
        (figures.micros(99_949), "99.9 ms"),
        (figures.micros(212_400), "212 ms"),
        (figures.micros(999_500), "1.00 s"),
        (figures.micros(125_000_000), "2 m 05 s"),
        (figures.micros(None), "—"),
        (figures.age(640_000), "0.6 s"),
        (figures.age(61_000_000), "1 m 01 s"),
        (figures.span(42.9), "42 s"),
        (figures.span(11_520), "3 h 12 m"),
        (figures.span(273_900), "3 d 04 h"),
        (figures.span(math.nan), "—"),
        (figures.utc("2026-11-22T17:20:05.123456Z"), "2026-11-22 17:20:05 UTC"),
        (figures.utc("2026-11-22T20:20:05+03:00", seconds=False), "2026-11-22 17:20 UTC"),
        (figures.utc("yesterday"), "—"),
        (figures.utc("0001-01-01T00:00:00+23:59"), "—"),
    ],
)
def test_a_figure_reads_like_this(said, expected):
    assert said == expected


@pytest.mark.parametrize(
    ("share", "filled"), [(0.0, 0), (0.48, 5), (1.0, 10), (1.7, 10), (-0.2, 0), (None, 0), (math.nan, 0)]
)
def test_a_gauge_never_leaves_its_width(share, filled):
    assert figures.bar(share, 10) == ("━" * filled, "─" * (10 - filled))


def test_a_trend_shows_the_newest_values_and_leaves_nothing_blank():
    assert figures.trend((9.0, 0.0, 1.0, 4.0, 8.0), 4) == " ▁▄█"


def test_a_trend_of_no_numbers_does_not_fail():
    assert figures.trend((math.nan, -1.0, 0.0), 8) == "   "
    assert figures.trend((1.0,), 0) == ""


COLUMNS = (
    Column("Name 2", 6, grows=True),
    Column("State", 5),
    Column("Size", 4, right=True, rank=2),
    Column("Key", 4, rank=1),
)


@pytest.mark.parametrize(
    ("room", "expected"),
    [(25, (6, 5, 4, 4)), (30, (11, 5, 4, 4)), (24, (11, 5, 0, 4)), (18, (11, 5, 0, 0)), (5, (1, 5, 0, 0))],
)
def test_columns_share_spare_cells_and_leave_by_rank(room, expected):
    assert widths(COLUMNS, room) == expected


def test_a_row_stands_under_its_headings():
    sizes = widths(COLUMNS, 25)
    cells = (Span("a-long-name"), (Span("● ", "good"), Span("up")), Span("7"), Span("k1"))
    assert plain_text(headings(COLUMNS, sizes)) == " Name 2  State  Size  Key  "
    assert plain_text(row(COLUMNS, sizes, cells)) == " a-lon…  ● up      7  k1   "
