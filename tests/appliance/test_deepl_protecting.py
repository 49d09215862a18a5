"""Tags and terms in a translation: kept, or named."""

import html
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.server.deepl.protecting import MAX_PLACEHOLDERS, LostError, protect

TEXTS = st.text(st.sampled_from('ab <>/&;!-"⟦⟧12[]x\n'), max_size=60)
TERMS = {"sea": "Meer", "sea bed": "Meeresgrund"}


def test_a_tag_and_a_term_are_marks_to_the_model_and_come_back_in_their_places():
    given = protect("The <b>sea</b> is wide.", "xml", terms=TERMS)
    assert given.text == "The ⟦1⟧⟦2⟧⟦3⟧ is wide."
    assert given.restored("Weit ist das ⟦1⟧⟦2⟧⟦3⟧.") == "Weit ist das <b>Meer</b>."


def test_terms_are_whole_words_and_the_longest_first():
    given = protect("The sea bed, not the seat: sea.", terms=TERMS)
    assert given.text == "The ⟦1⟧, not the seat: ⟦2⟧."
    assert given.restored("⟦2⟧ und ⟦1⟧") == "Meer und Meeresgrund"


def test_what_stands_in_an_ignored_element_is_one_mark():
    text = "Press <key>Ctrl <b>C</b> <key>now</key></key> to end."
    given = protect(text, "xml", frozenset({"key"}))
    assert given.text == "Press ⟦1⟧ to end."
    assert given.restored("Zum Ende ⟦1⟧.") == "Zum Ende <key>Ctrl <b>C</b> <key>now</key></key>."


def test_characters_that_tags_need_are_read_and_written_as_entities():
    given = protect("Salt &amp; <i>pepper</i> &lt; 3", "html")
    assert given.text == "Salt & ⟦1⟧pepper⟦2⟧ < 3"
    assert given.restored("Salz & ⟦1⟧Pfeffer⟦2⟧ < 3") == "Salz &amp; <i>Pfeffer</i> &lt; 3"


def test_without_tags_a_text_keeps_its_angle_brackets():
    assert protect("a < b & <c>").text == "a < b & <c>"


@pytest.mark.parametrize(
    ("translation", "lost"),
    [
        ("Das ⟦1⟧⟦2⟧ Meer", "</b>"),
        ("Das Meer", "<b>"),
        ("⟦1⟧⟦1⟧⟦2⟧⟦3⟧", "<b>"),
        ("⟦3⟧⟦2⟧⟦1⟧", "</b>"),
        ("⟦1⟧⟦2⟧⟦3⟧⟦4⟧", "⟦4⟧"),
        ("⟦1⟧⟦3⟧", "sea"),
    ],
)
def test_what_a_translation_loses_doubles_or_crosses_is_named(translation, lost):
    with pytest.raises(LostError) as refused:
        protect("The <b>sea</b>", "xml", terms={"sea": "Meer"}).restored(translation)
    assert refused.value.what == lost


ENDLESS = ["a <br> b", "a <br/> b", "a <!-- <b> --> b", "<?xml version='1.0'?>a", "a <img src='x'> b"]


@pytest.mark.parametrize("text", ENDLESS)
def test_what_has_no_end_asks_for_none(text):
    given = protect(text, "html")
    assert given.restored(given.text) == text


def test_tags_that_do_not_nest_in_the_text_need_not_in_the_translation():
    given = protect("<b>a</i>", "xml")
    assert given.restored("⟦2⟧x⟦1⟧") == "</i>x<b>"


def test_a_mark_that_a_text_already_holds_is_kept_too():
    given = protect("Write ⟦1⟧ here, sea", terms=TERMS)
    assert given.text == "Write ⟦1⟧ here, ⟦2⟧"
    assert given.restored("Hier ⟦1⟧, ⟦2⟧") == "Hier ⟦1⟧, Meer"


def test_more_marks_than_a_model_could_keep_are_refused():
    with pytest.raises(ValueError, match=str(MAX_PLACEHOLDERS)):
        protect("<a>" * (MAX_PLACEHOLDERS + 1), "xml")


@given(TEXTS, st.sampled_from(["", "xml", "html"]), st.sampled_from([{}, {"a": "a"}, {"a b": "a b", "x": "x"}]))
def test_a_model_that_repeats_its_text_gives_the_text_back(text, tags, terms):
    protected = protect(text, tags, frozenset({"x"}), terms)
    back = protected.restored(protected.text)
    assert back == text if not tags else html.unescape(back) == html.unescape(text)


@pytest.mark.parametrize("text", ["<!--" * 30_000, "<![CDATA[" * 10_000, "<a" * 60_000, "<" * 120_000, "⟦" * 100_000])
def test_the_cost_grows_with_the_text_and_not_faster(text):
    def cost(some):
        began = time.process_time()
        protect(some, "xml", frozenset({"a"}))
        return time.process_time() - began

    assert cost(text) < 200 * max(cost(text[: len(text) // 20]), 0.001)
