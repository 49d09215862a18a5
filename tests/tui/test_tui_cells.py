"""Text measured by the cell: cleaning, clipping, wrapping, and what changed between two lines."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from plugsky_tui.cells import (
    Span,
    beside,
    changed_cells,
    clean,
    clip,
    fit,
    line_width,
    pad,
    plain_text,
    to_ascii,
    wrap,
)

SPANS = st.builds(Span, st.text(string.ascii_letters + " 日本", max_size=6), st.sampled_from(["plain", "good", "bad"]))
LINES = st.lists(SPANS, max_size=5).map(tuple)


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ("an escape sequence", "\x1b[2J"),
        ("a bell", "\a"),
        ("a carriage return", "one\rtwo"),
        ("a line separator", "one\u2028two"),
        ("a change of direction", "abc\u202ecba"),
        ("a zero-width joiner", "a\u200db"),
        ("a private character", "\ue000"),
    ],
)
def test_no_foreign_text_can_move_the_cursor(about, text):
    cleaned = clean(text)
    assert "�" in cleaned
    assert cleaned.isprintable(), about


def test_ordinary_text_of_any_script_is_left_as_it_is():
    text = "Riyadh الرياض 東京 Zürich"
    assert clean(text) == text


def test_a_very_long_text_is_cut_on_arrival():
    assert len(clean("x" * 10_000)) == 300


@given(st.text())
def test_ascii_stand_ins_keep_the_width_of_a_clean_text(text):
    cleaned = clean(text)
    replaced = to_ascii(cleaned)
    assert replaced.isascii()
    assert cell_len(replaced) == sum(cell_len(char) for char in cleaned)


@pytest.mark.parametrize("glyph", "…—·→●◐○✓✗▲━─▁▂▃▄▅▆▇█")
def test_every_glyph_of_ours_has_a_stand_in_of_one_cell(glyph):
    assert cell_len(to_ascii(glyph)) == cell_len(glyph) == 1
    assert to_ascii(glyph) != "?"


@given(st.text(string.ascii_letters + "日本語 "), st.integers(0, 20))
def test_padding_gives_exactly_the_width_asked_for(text, width):
    assert cell_len(pad(text, width)) == width
    assert cell_len(pad(text, width, right=True)) == width
    assert cell_len(clip(text, width)) <= width


def test_what_was_cut_off_is_marked():
    assert clip("ministry-of-works", 12) == "ministry-of…"


@given(LINES, st.integers(0, 30))
def test_a_fitted_line_is_never_wider_than_its_room(line, width):
    assert line_width(fit(line, width)) <= width


def test_two_ends_of_a_row_stand_at_its_two_edges():
    assert plain_text(beside((Span("left"),), (Span("right"),), 14)) == "left     right"


def test_the_left_end_is_clipped_where_both_do_not_fit():
    assert plain_text(beside((Span("left side"),), (Span("right"),), 12)) == "left…  right"


def test_a_long_text_is_broken_at_spaces_and_hangs_under_itself():
    lines = wrap((Span(" ✗ "),), "The gateway listens on every address.", 21)
    assert [plain_text(line) for line in lines] == [" ✗ The gateway", "   listens on every", "   address."]


def test_a_word_longer_than_the_room_is_clipped():
    assert [plain_text(line) for line in wrap((), "x" * 30, 10)] == ["xxxxxxxxx…"]


def test_equal_lines_have_no_changed_cell():
    assert changed_cells((Span("same"),), (Span("sa"), Span("me"))) is None


def test_only_the_cells_that_differ_are_named():
    assert changed_cells((Span("17:20:05 UTC"),), (Span("17:20:06 UTC"),)) == (7, 8)


def test_a_change_of_tone_is_a_change():
    assert changed_cells((Span("ready"),), (Span("ready", "good"),)) == (0, 5)


def test_a_line_with_wide_characters_counts_as_whole():
    assert changed_cells((Span("日本 1"),), (Span("日本 2"),)) == (0, 6)


@given(LINES, LINES)
def test_outside_the_changed_cells_both_lines_are_the_same(old, new):
    changed = changed_cells(old, new)
    before = [(char, span.tone) for span in old for char in span.text]
    after = [(char, span.tone) for span in new for char in span.text]
    if changed is None:
        assert before == after
        return
    start, end = changed
    assert 0 <= start < end <= max(line_width(old), line_width(new))
    if len(before) == line_width(old) and len(after) == line_width(new):
        assert before[:start] == after[:start]
        assert before[end:] == after[end:]
