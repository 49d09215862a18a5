"""GBNF: read as llama.cpp reads it, refused by name where it recurses, explodes, is empty or says nothing."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars import gbnf, matcher
from plugsky.engine.grammars.matcher import Matcher

REFUSED = {
    "nothing": ("", "no rule 'root'"),
    "a comment only": ("# root", "no rule 'root'"),
    "no root": ('answer ::= "a"', "no rule 'root'"),
    "the empty text only": ('root ::= ""', "empty text only"),
    "the empty text only, by a reference": ("root ::= a\na ::=", "empty text only"),
    "a rule that is missing": ("root ::= a", "does not define"),
    "a rule given twice": ('root ::= "a"\nroot ::= "b"', "twice"),
    "a rule that begins with itself": ('root ::= root "a" | "a"', "left-recursive"),
    "a rule that is itself": ("root ::= root", "left-recursive"),
    "left recursion through another": ('root ::= a\na ::= b "x"\nb ::= a | "y"', "left-recursive"),
    "left recursion behind what may be empty": ('root ::= a? root "x" | "y"\na ::= "a"', "left-recursive"),
    "left recursion in a repetition": ('root ::= (root "x")* "y"', "left-recursive"),
    "a repetition of what may be empty": ('root ::= ("a"?)*', "may be empty"),
    "a repetition of a repetition": ('root ::= "a"**', "may be empty"),
    "a repetition of an empty rule": ('root ::= a* "x"\na ::= b\nb ::=', "may be empty"),
    "no finite text": ('root ::= "a" root', "no finite text"),
    "a repetition of nothing": ('root ::= *"a"', "nothing before"),
    "a repetition of an empty string": ('root ::= ""* "a"', "nothing before"),
    "a repetition that runs backwards": ('root ::= "a"{3,2}', "at least 3"),
    "a repetition without a count": ('root ::= "a"{,3}', "{m}"),
    "a repetition of millions": ('root ::= "a"{2000000}', "1000000"),
    "a count of a hundred digits": ('root ::= "a"{' + "9" * 100 + "}", "{m}"),
    "an unknown escape": (r'root ::= "\d"', "escape"),
    "half an escape": (r'root ::= "\x4"', "escape"),
    "an escape beyond Unicode": (r'root ::= "\U00110000"', "Unicode"),
    "an escape of a surrogate": (r'root ::= "\uD800"', "Unicode"),
    "a NUL": ('root ::= "a\0"', "NUL"),
    "an escaped NUL": (r'root ::= "\x00"', "Unicode"),
    "a string that does not end": ('root ::= "abc', "does not end"),
    "a class that does not end": ("root ::= [abc", "does not end"),
    "a class that ends in a backslash": ("root ::= [abc\\", "escape"),
    "a class of nothing": ("root ::= []", "admits nothing"),
    "a range that runs backwards": ("root ::= [z-a]", "backwards"),
    "a parenthesis that does not close": ('root ::= ("a"', "')' is missing"),
    "a parenthesis too many": ('root ::= "a")', "end with its line"),
    "an alternative on a line of its own": ('root ::= "a"\n| "b"', "name of a rule"),
    "no sign of definition": ('root = "a"', "'::='"),
    "a token by its name": ("root ::= <think>", "tokens by name"),
    "a token by its number": ("root ::= !<[7]>", "tokens by name"),
    "60,000 parentheses": ("root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, "parentheses"),
    "65 parentheses": ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "parentheses"),
    "too many characters": ("root ::= " + " " * (1 << 17), "characters"),
    "too many items": ("root ::= " + "." * (1 << 16) + ".", "characters and references"),
    "too many rules": ("root ::= " + "(.)" * (1 << 13), "rules and groups"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_grammar_that_cannot_be_enforced_is_refused_by_name(text, why):
    with pytest.raises(EngineError) as refusal:
        gbnf.read(text)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.SCHEMA_REFUSED, "grammar")
    assert why in refusal.value.what


def reads(text, answer):
    """Whether the whole of ``answer`` is admitted."""
    place = Matcher(gbnf.read(text))
    return place.accept(answer.encode()) and place.complete


READ = {
    "a string": (r'root ::= "a\"\\\n\x41\u00e9\U0001F44B"', ['a"\\\nAé👋'], ["a", ""]),
    "alternatives": ('root ::= "a" | "b" | ', ["a", "b", ""], ["ab", "c"]),
    "a class": (r"root ::= [a-c_\]-]+", ["abc", "_", "]-"], ["d", ""]),
    "a class of all but some": ('root ::= [^"\\\\]*', ["abc👋", ""], ['"', "\\"]),
    "any character": ("root ::= . .", ["ab", "\n👋"], ["a", "abc"]),
    "a group over lines": ('root ::= (\n "a" # one\n | "b"\n) "c"', ["ac", "bc"], ["c"]),
    "a repeated string, not only its last character": ('root ::= "ab"{2}', ["abab"], ["abb", "ab"]),
    "counts": ('root ::= "a"{2,3} "b"{1,} "c"{0}', ["aab", "aaabb"], ["ab", "aaaab", "aabc"]),
    "optional": ('root ::= "a"? "b"', ["ab", "b"], ["a", "aab"]),
    "nested counts": ('root ::= ("a"{2} "b"?){2}', ["aaaa", "aabaab"], ["aa", "aaa"]),
    "recursion": ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "x)"]),
    "recursion at the end": ('root ::= "a" root | ""', ["", "aaa"], ["b"]),
    "rules in any order, windows lines": ('a ::= "x"\r\nroot ::= a b\r\nb ::= "y"\r\n', ["xy"], ["x"]),
    "ten thousand": ('root ::= "a"{10000} "b"', ["a" * 10_000 + "b"], ["a" * 9999 + "b"]),
    "names of digits and dashes": ('root ::= 1-a\n1-a ::= "x"', ["x"], ["1-a"]),
}


@pytest.mark.parametrize(("text", "right", "wrong"), READ.values(), ids=READ.keys())
def test_a_grammar_admits_what_it_says(text, right, wrong):
    assert [answer for answer in right if not reads(text, answer)] == []
    assert [answer for answer in wrong if reads(text, answer)] == []


def test_the_end_is_known_when_nothing_may_follow():
    place = Matcher(gbnf.read('root ::= "a" "b"? '))
    assert (place.complete, place.exhausted) == (False, False)
    assert place.accept(b"a")
    assert (place.complete, place.exhausted) == (True, False)
    assert place.accept(b"b")
    assert (place.complete, place.exhausted) == (True, True)
    assert not place.accept(b"b")


@given(st.text(max_size=20), st.lists(st.integers(1, 3), min_size=1))
def test_how_bytes_are_cut_changes_nothing(text, sizes):
    place, data, at, turn = Matcher(gbnf.read("root ::= [^a]* ")), text.encode(), 0, 0
    admitted = True
    while at < len(data) and admitted:
        size = sizes[turn % len(sizes)]
        admitted = place.accept(data[at : at + size])
        at, turn = at + size, turn + 1
    assert (admitted and place.complete) == ("a" not in text and "\0" not in text)


SPLIT = {
    "the beginning of an admitted character": ("root ::= [é]", "é".encode()[:1], True),
    "the beginning of another": ("root ::= [é]", "世".encode()[:1], False),
    "two bytes of three": ("root ::= [世]", "世".encode()[:2], True),
    "two bytes of three of another": ("root ::= [世]", "丗".encode()[:2] + b"\x81", False),
    "a lead byte where only ASCII may stand": ("root ::= [a-z]", b"\xf0", False),
    "a byte that begins nothing": ("root ::= .", b"\x80", False),
    "an overlong form": ("root ::= .", b"\xc0\xaf", False),
    "a surrogate": ("root ::= .", b"\xed\xa0\x80", False),
}


@pytest.mark.parametrize(("text", "piece", "admitted"), SPLIT.values(), ids=SPLIT.keys())
def test_part_of_a_character_is_admitted_if_it_can_become_one(text, piece, admitted):
    assert Matcher(gbnf.read(text)).admits(piece) is admitted


@given(st.binary(max_size=8), st.binary(min_size=1, max_size=3))
def test_no_admitted_piece_begins_with_a_byte_that_is_ruled_out(before, piece):
    place = Matcher(gbnf.read('root ::= ("x" | [à-ü] | "\\"" [^"]* "\\"" | "👋")*'))
    place.accept(before)
    if place.admits(piece):
        assert place.first_bytes()[piece[0]]


def test_ways_that_double_with_each_character_are_bounded():
    place = Matcher(gbnf.read('root ::= "a" root "b" | "a" root "c" | "d"'))
    with pytest.raises(matcher.TooAmbiguousError):
        place.accept(b"a" * 64)


def test_what_is_remembered_of_a_long_answer_is_bounded():
    place = Matcher(gbnf.read('root ::= "[" root "]" | [à-ü]+'))
    for _ in range(3 * matcher.MAX_TABLE):
        assert place.accept(b"[")
    for char in range(0xE0, 0xFC):
        assert place.accept(chr(char).encode())
    sizes = [len(place._sets), len(place._steps), len(place._nodes)]
    assert max(sizes) < 8 * matcher.MAX_TABLE
    for _ in range(3 * matcher.MAX_TABLE):
        assert place.accept(b"]")
    assert place.exhausted


@settings(max_examples=300)
@given(st.text(alphabet='ab ::=|()[]^-"\\*+?{}0123,<>!.#\n\r\tx', max_size=60))
def test_any_text_is_read_or_refused(body):
    with contextlib.suppress(EngineError):
        place = Matcher(gbnf.read("root ::= " + body))
        assert place.first_bytes().any() or place.complete


def test_the_longest_chain_of_rules_is_read():
    rules = [f"a{n} ::= a{n + 1}" for n in range(8000)]
    assert reads("\n".join(["root ::= a0", *rules, 'a8000 ::= "x"']), "x")


def test_a_rule_that_names_thousands_of_others_is_read():
    names = " ".join(f"a{n % 2000}" for n in range(9000))
    text = "\n".join([f"root ::= {names}", *(f"a{n} ::= a{n + 1} |[y]" for n in range(1999)), "a1999 ::= [x]"])
    assert len(gbnf.read(text).rules) == 2001


def test_a_thousand_alternatives_are_followed_at_once():
    words = [f"word {n}" for n in range(1000)]
    assert reads("root ::= " + " | ".join(f'"{word}"' for word in words), words[-1])
