"""Grammars of calls: what a family's grammar admits, its own parser reads as calls of the offered tools."""

import json

import pytest

from appliance.grammar_texts import Writer
from plugsky.core.errors import ErrorKind
from plugsky.core.request import Tool
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars import gbnf
from plugsky.engine.grammars.constraint import Constraint, Pieces
from plugsky.engine.grammars.grammar import GrammarSpec
from plugsky.engine.grammars.matcher import Matcher
from plugsky.engine.grammars.tool_rules import argument_rules, renamed
from plugsky.engine.prompting.families.catalogue import FAMILIES
from plugsky.engine.prompting.families.constraint import text_without
from plugsky.engine.prompting.families.parser import AnswerParser

WEATHER = Tool(
    name="weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 14}},
        "required": ["city"],
    },
)
TIME = Tool(name="get-time_2")
BOTH = (WEATHER, TIME)
EVERY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def read(family, text, thinking=False):
    parser = AnswerParser(family, tools=("weather", "get-time_2"), thinking=thinking)
    parser.feed(text)
    return parser.end()


def matches(grammar, text):
    matcher = Matcher(gbnf.read(grammar))
    data = text.encode()
    if not matcher.admits(data):
        return False
    matcher.accept(data)
    return matcher.complete


@EVERY
@pytest.mark.parametrize("reasoning", ["none", "allowed", "begun"])
def test_what_the_grammar_admits_is_read_as_calls(family, reasoning):
    begun = reasoning == "begun" and family.reasoning is not None
    grammar = family.constraint(BOTH, argument_rules, reasons=reasoning == "allowed", thinking=begun).grammar
    writer = Writer(grammar)
    for seed in range(40):
        text = writer.text(seed)
        outcome = read(family, text, thinking=begun)
        assert outcome.called, (text, outcome)
        assert {call.name for call in outcome.calls} <= {"weather", "get-time_2"}
        if not family.shape.arguments:
            for call in outcome.calls:
                assert call.name == "get-time_2" or isinstance(json.loads(call.arguments)["city"], str)


@EVERY
def test_a_single_call_is_all_where_parallel_ones_are_not_wanted(family):
    writer = Writer(family.constraint(BOTH, argument_rules, parallel=False).grammar)
    assert {len(read(family, writer.text(seed)).calls) for seed in range(20)} == {1}


@EVERY
def test_one_tool_is_called_where_one_is_named(family):
    writer = Writer(family.constraint((TIME,), argument_rules).grammar)
    assert {call.name for seed in range(10) for call in read(family, writer.text(seed)).calls} == {"get-time_2"}


@EVERY
def test_a_grammar_that_waits_begins_with_one_of_its_triggers(family):
    constraint = family.lazy_constraint(BOTH, argument_rules)
    assert constraint.triggers
    writer = Writer(constraint.grammar)
    assert any(writer.text(seed).startswith(constraint.triggers) for seed in range(10))


@EVERY
def test_an_answer_may_be_calls_or_follow_a_schema(family):
    answer = renamed('root ::= "{" number "}"\nnumber ::= [0-9]{1,3}', "answer")
    grammar = family.constraint(BOTH, argument_rules, answer=answer).grammar
    outcomes = [read(family, Writer(grammar).text(seed)) for seed in range(30)]
    assert {outcome.called for outcome in outcomes} == {True, False}


def test_control_tokens_that_are_shown_are_admitted_where_the_grammar_has_their_text():
    pieces = Pieces([b"", b"f", b"[ARGS]", b""], lambda token: token == 3, {0: "[ARGS]"})
    grammar = 'root ::= "f" "[ARGS]"'
    hidden, shown = (Constraint(GrammarSpec(grammar, shown=names), pieces) for names in ((), ("[ARGS]",)))
    for constraint in (hidden, shown):
        constraint.accept(1)
    assert not hidden.allows(0)
    assert shown.allows(0)
    assert shown.possible()[0]


WITHOUT = {
    "nothing": ("", True),
    "words": ("Let me think.", True),
    "what begins like it": ("a </thin </th", True),
    "itself": ("</think>", False),
    "itself inside": ("a </think> b", False),
    "itself behind its own beginning": ("</</think>", False),
}


@pytest.mark.parametrize(("text", "admitted"), WITHOUT.values(), ids=WITHOUT.keys())
def test_text_without_a_marker_is_any_other(text, admitted):
    assert matches("root ::= thought\n" + text_without("thought", "</think>"), text) is admitted


def test_names_inside_strings_and_classes_of_a_grammar_are_left_alone():
    grammar = 'root ::= "root \\" x" [a-z\\]x]{1,3} x\nx ::= "x"'
    assert renamed(grammar, "args-0") == 'args-0 ::= "root \\" x" [a-z\\]x]{1,3} args-0-x\nargs-0-x ::= "x"'


def test_a_schema_that_cannot_be_kept_is_refused_as_a_tools():
    with pytest.raises(EngineError, match="the parameters of a tool") as refusal:
        argument_rules("args-0", {"type": "object", "$ref": "https://example.com/schema"})
    assert refusal.value.kind is ErrorKind.SCHEMA_REFUSED
    assert refusal.value.param == "tools"
