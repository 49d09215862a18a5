"""Answers read while they stream: reasoning, content and calls of each family, the same however the text is cut."""

import itertools
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.family_answers import ANSWERS, BROKEN
from plugsky.engine.prompting.families.catalogue import FAMILIES, named
from plugsky.engine.prompting.families.events import ContentDelta, ReasoningDelta, ToolArgumentsDelta, ToolCallBegin
from plugsky.engine.prompting.families.json_scan import MAX_DEPTH
from plugsky.engine.prompting.families.parser import AnswerParser, random_call_id


class Read(NamedTuple):
    """An answer's events, joined, and how it ended."""

    reasoning: str
    content: str
    calls: list
    order: list
    outcome: object


def read(family, pieces, *, thinking=False, tools=("f", "g")):
    """Feed ``pieces`` to a parser and join what it gives."""
    ids = (f"call_{number}" for number in itertools.count())
    parser = AnswerParser(named(family), tools=tools, thinking=thinking, new_id=lambda: next(ids))
    events = [event for piece in pieces for event in parser.feed(piece)]
    outcome = parser.end()
    reasoning, content, calls, order = "", "", [], []
    for event in (*events, *outcome.events):
        match event:
            case ReasoningDelta(text):
                reasoning += text
            case ContentDelta(text):
                content += text
            case ToolCallBegin(index, call_id, name):
                assert (index, call_id) == (len(calls), f"call_{index}")
                calls.append((name, ""))
            case ToolArgumentsDelta(index, text):
                calls[index] = (calls[index][0], calls[index][1] + text)
        kind = type(event).__name__
        if not order or order[-1] != kind:
            order.append(kind)
    return Read(reasoning, content, calls, order, (outcome.calls, outcome.problem))


CASES = {f"{family}: {name}": (family, case) for family, cases in ANSWERS.items() for name, case in cases.items()}


@pytest.mark.parametrize(("family", "case"), CASES.values(), ids=CASES.keys())
def test_an_answer_is_read(family, case):
    thinking, text, reasoning, content, calls = case
    found = read(family, [text], thinking=thinking)
    assert (found.reasoning, found.content, found.calls) == (reasoning, content, calls)
    whole, problem = found.outcome
    assert problem == ""
    assert [(call.name, call.arguments) for call in whole] == calls


@pytest.mark.parametrize(("family", "case"), CASES.values(), ids=CASES.keys())
def test_an_answer_that_comes_in_single_characters_is_read_the_same(family, case):
    thinking, text, *_ = case
    assert read(family, text, thinking=thinking) == read(family, [text], thinking=thinking)


@pytest.mark.parametrize(("family", "case"), CASES.values(), ids=CASES.keys())
def test_without_tools_no_answer_calls_any(family, case):
    thinking, text, *_ = case
    found = read(family, [text], thinking=thinking, tools=())
    assert found.calls == []
    assert found.outcome == ((), "")


def test_every_family_has_answers():
    assert set(ANSWERS) == {family.name for family in FAMILIES}


PIECES = ["<", "|", ">", "{", "}", "[", "]", '"', ":", ",", " ", "\n", "\\", "f", "1", "-", "null", "é", "function"]
SOUP = {
    family.name: [
        *PIECES,
        *family.visible_tokens,
        *family.triggers,
        *{text for _, text, *_ in ANSWERS[family.name].values()},
        '{"name": "f", "arguments": {"a": 1}}',
        '"name": "g"',
        "call:f{",
        "function",
        "```json",
        "<|message|>",
        "to=functions.f",
    ]
    for family in FAMILIES
}


@st.composite
def soups(draw):
    """Text out of a family's own marks, and two ways to cut it."""
    family = draw(st.sampled_from(sorted(SOUP)))
    text = "".join(draw(st.lists(st.sampled_from(SOUP[family]), max_size=12)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    return family, text, pieces, draw(st.booleans())


@settings(max_examples=400)
@given(soups())
def test_any_text_gives_the_same_events_however_it_is_cut(soup):
    family, text, pieces, thinking = soup
    whole = read(family, [text], thinking=thinking)
    assert read(family, pieces, thinking=thinking) == whole
    assert read(family, text, thinking=thinking) == whole
    calls, problem = whole.outcome
    assert problem or all(name in ("f", "g") for name, _ in whole.calls)
    assert [(call.name, call.arguments) for call in calls] == whole.calls


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_mark_that_only_begins_comes_out_as_text_at_the_end(family):
    for marker in (*family.visible_tokens, *family.triggers):
        for end in range(1, len(marker)):
            text = f"So: {marker[:end]}"
            assert read(family.name, [text]).content == text


@pytest.mark.parametrize(("family", "text"), BROKEN.items(), ids=BROKEN.keys())
def test_a_call_that_breaks_once_begun_is_named_at_the_end(family, text):
    calls, problem = read(family, [text]).outcome
    assert [call.name for call in calls] == ["f"]
    assert problem == "the call of f is cut off or malformed"


@pytest.mark.parametrize("family", sorted(BROKEN))
def test_an_answer_that_ends_inside_a_call_claims_no_call(family):
    thinking, text, _, _, calls = next(case for case in ANSWERS[family].values() if case[4])
    last = text.rfind("1") if calls[-1][0] == "f" else text.rfind("{") + 1
    parser = AnswerParser(named(family), tools=("f", "g"), thinking=thinking)
    parser.feed(text[:last])
    outcome = parser.end()
    assert not outcome.called
    assert "is cut off or malformed" in outcome.problem


def test_arguments_stream_while_they_come():
    parser = AnswerParser(named("hermes"), tools=("f",), new_id=lambda: "call_x")
    assert parser.feed('<tool_call>{"name": "f", "arguments": {"a": "lo') == (
        ToolCallBegin(0, "call_x", "f"),
        ToolArgumentsDelta(0, '{"a": "lo'),
    )
    assert parser.feed("ng") == (ToolArgumentsDelta(0, "ng"),)


def test_only_what_may_still_be_a_mark_is_held_back():
    parser = AnswerParser(named("hermes"), tools=("f",))
    assert parser.feed("a <b") == (ContentDelta("a <b"),)
    assert parser.feed(" <tool") == ()
    assert parser.feed("s") == (ContentDelta(" <tools"),)


def test_arguments_nested_without_end_are_refused():
    deep = '{"a": ' * (MAX_DEPTH + 1)
    _, problem = read("hermes", ['<tool_call>{"name": "f", "arguments": ' + deep]).outcome
    assert problem == "the call of f is cut off or malformed"


def test_two_calls_have_two_ids():
    assert random_call_id() != random_call_id()
    assert len(random_call_id()) == 29
