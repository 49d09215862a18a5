"""JSON Schema: compiled so that every admitted text satisfies the schema, or refused by name."""

import json
import re

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from appliance.grammar_texts import Writer
from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars import gbnf
from plugsky.engine.grammars.json_schema import patterns
from plugsky.engine.grammars.json_schema.compiler import compiled
from plugsky.engine.grammars.json_schema.gbnf_text import Rules, literal
from plugsky.engine.grammars.json_schema.numbers import Bounds, integers, numbers
from plugsky.engine.grammars.matcher import Matcher

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def admits(grammar, text):
    place = Matcher(gbnf.read(grammar))
    return place.accept(text.encode()) and place.complete


def satisfies(schema, text):
    """Whether ``text`` is JSON that the reference implementation finds valid."""
    return jsonschema.Draft202012Validator(schema, format_checker=CHECKER).is_valid(json.loads(text))


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "tags": {"type": "array"}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SHAPES = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, side: {"type": "number"}},
            "required": ["kind", side],
        }
        for kind, side in (("circle", "radius"), ("square", "width"))
    ]
}
COMPILED = {
    "an object": (
        PERSON,
        ['{"name":"A"}', '{ "name": "é", "age": 3}', '{"name":"","tags":[1,"x"]}'],
        ["{}", '{"age":3}'],
    ),
    "properties in their order only": (PERSON, [], ['{"age":3,"name":"A"}', '{"name":"A","other":1}', '{"name":"A",}']),
    "white space, little of it": (PERSON, ['{\n  "name": "A"\n}'], ['{\n\n"name":"A"}', ' {"name":"A"}']),
    "any object": ({"type": "object"}, ["{}", '{"a":{"b":[1.5e3,null,true]}}'], ["[]", "1", '{"a"}']),
    "anything": ({}, ["1", '"x"', "null", "[]", "{}"], ["", "x"]),
    "any but in words": ({"title": "x", "x-order": 3}, ["1"], [""]),
    "a map of numbers": (
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2},
        ['{"a":1}', '{"a":1,"b":2}'],
        ["{}", '{"a":"x"}', '{"a":1,"b":2,"c":3}'],
    ),
    "named properties and others": (
        {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}, "type": "object"},
        ['{"ab":null,"a":1,"abc":2}', '{"b":1}', "{}", '{"":1}'],
        ['{"ab":1}', '{"a":null}', '{"\\u0061b":1}'],
    ),
    "a property required and not described": (
        {"type": "object", "required": ["a"]},
        ['{"a":[]}'],
        ["{}", '{"b":1}'],
    ),
    "a tuple": (
        {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
        ['[1,"x"]', '[ 1, "x" ]'],
        ["[]", "[1]", '[1,"x",2]'],
    ),
    "a tuple with more": (
        {"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "maxItems": 3},
        ["[1]", "[1,2,2]"],
        ["[]", "[1,2,2,2]", "[1,1]"],
    ),
    "counted items": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        ["[true]", "[true,false]"],
        ["[]", "[true,true,true]"],
    ),
    "no items": ({"type": "array", "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
    "values": (
        {"enum": ['a"b', 1, None, {"k": [True]}]},
        ['"a\\"b"', "1", "null", '{"k": [true]}'],
        ["a", "2", "true"],
    ),
    "values of a type": ({"type": ["integer", "null"], "enum": [1, "x", None, 1.5]}, ["1", "null"], ['"x"', "1.5"]),
    "lengths count characters, not bytes": (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ['"éé"', '"👋👋👋"', '"a\\n"', '"\\u00e9x"'],
        ['"a"', '"abcd"', '"\\ud83d\\ude00"', '"a\nb"'],
    ),
    "a pattern": (
        {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"},
        ['"AB-1"', '"XY-123"'],
        ['"ab-1"', '"AB-"', '"xAB-1"'],
    ),
    "a pattern somewhere": (
        {"type": "string", "pattern": "a.c"},
        ['"abc"', '"xxabcxx"', '"a\\"c"'],
        ['"ac"', '"a\\nc"'],
    ),
    "a pattern of alternatives, each with its anchors": (
        {"type": "string", "pattern": "^a|b$"},
        ['"ax"', '"xb"'],
        ['"xax"', '"xbx"'],
    ),
    "a date": (
        {"type": "string", "format": "date"},
        ['"2024-02-28"', '"1999-12-31"'],
        ['"2024-02-30"', '"2024-13-01"'],
    ),
    "a time": ({"format": "date-time"}, ['"2024-01-01T23:59:59.5+01:00"'], ['"2024-01-01"', '"2024-01-01T24:00:00Z"']),
    "integers": ({"type": "integer"}, ["0", "-7", "123456"], ["01", "1.5", "--1", "+1"]),
    "integers between": (
        {"type": "integer", "minimum": -12, "exclusiveMaximum": 103},
        ["-12", "0", "102"],
        ["-13", "103", "-0"],
    ),
    "numbers between": ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "0.5", "1"], ["-0.1", "1.1", "2"]),
    "numbers above": ({"type": "number", "exclusiveMinimum": 0}, ["0.1", "1", "7.25"], ["0", "-1", "0.0"]),
    "a tree": (TREE, ['{"value":1,"next":{"value":2,"next":null}}'], ['{"value":1}', '{"value":1,"next":1}']),
    "one of two shapes": (SHAPES, ['{"kind":"circle","radius":1}'], ['{"kind":"circle","width":1}', '{"kind":"x"}']),
    "all of one": ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}}, ["null"], ["1"]),
    "all of two objects": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
                {"properties": {"b": {"const": 2}}, "required": ["b"]},
            ]
        },
        ['{"a":1,"b":2}'],
        ['{"a":1}', '{"b":2}'],
    ),
    "what stands beside anyOf": (
        {
            "type": "object",
            "properties": {"a": {"const": 1}, "b": {"const": 2}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        ['{"a":1}', '{"b":2}', '{"a":1,"b":2}'],
        ["{}"],
    ),
    "what stands beside a reference": (
        {"$ref": "#/$defs/a", "maxLength": 1, "$defs": {"a": {"type": "string"}}},
        ['"x"'],
        ['"xy"', "1"],
    ),
    "a reference with escapes": (
        {"$ref": "#/$defs/a~1b%20c/anyOf/1", "$defs": {"a/b c": {"anyOf": [True, {"type": "null"}]}}},
        ["null"],
        ["1"],
    ),
}


@pytest.mark.parametrize(("schema", "right", "wrong"), COMPILED.values(), ids=COMPILED.keys())
def test_a_schema_admits_what_it_says(schema, right, wrong):
    grammar = compiled(json.dumps(schema))
    assert [text for text in right if not admits(grammar, text)] == []
    assert [text for text in wrong if admits(grammar, text)] == []
    assert all(satisfies(schema, text) for text in right)


NAMED_DEEP = {"a": {}}
for _ in range(40):
    NAMED_DEEP = {"type": "array", "items": NAMED_DEEP}
WIDE = {"anyOf": [{"properties": {"x": {}}}] * 9}
for _ in range(5):
    WIDE = {"type": "object", "properties": {"a": WIDE}, "anyOf": [{"required": ["a"]}] * 9}

REFUSED = {
    "no JSON": ("{", "no JSON"),
    "half a surrogate pair": ('{"const":"\\ud800"}', "schema"),
    "100,000 brackets": ("[" * 60_000, "no JSON"),
    "a schema that is too long": (" " * (1 << 16) + "{}", "characters"),
    "a schema that is a list": ("[]", "neither an object"),
    "a schema that nothing satisfies": ("false", "nothing can satisfy"),
    "a remote reference": ('{"$ref":"https://example.org/schema.json"}', "never fetched"),
    "a reference to a file": ('{"$ref":"file:///etc/passwd"}', "never fetched"),
    "a reference to another document": ('{"$ref":"other.json#/a"}', "never fetched"),
    "a reference to an anchor": ('{"$ref":"#name"}', "anchor"),
    "a reference to nothing": ('{"$ref":"#/$defs/a"}', "not in it"),
    "a reference to itself": ('{"$ref":"#"}', "left-recursive"),
    "references in a circle": (
        '{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}',
        "left-recursive",
    ),
    "a circle of allOf": ('{"$defs":{"a":{"allOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}', "without end"),
    "an object that must hold itself": (
        '{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}',
        "no finite text",
    ),
    "an unknown keyword": ('{"type":"string","minimumLength":3}', "'minimumLength'"),
    "not": ('{"not":{"type":"string"}}', "'not'"),
    "conditions": ('{"if":{},"then":{}}', "'if'"),
    "unique items": ('{"type":"array","uniqueItems":true}', "'uniqueItems'"),
    "names by pattern": ('{"type":"object","patternProperties":{"^a":{}}}', "'patternProperties'"),
    "nullable, of another dialect": ('{"type":"string","nullable":true}', "'nullable'"),
    "a base of its own": ('{"$id":"https://example.org/"}', "'$id'"),
    "items as a list": ('{"type":"array","items":[{}]}', "prefixItems"),
    "a type that is none": ('{"type":"text"}', "none of"),
    "a type that is a number": ('{"type":3}', "neither a name"),
    "types that are none": ('{"type":[]}', "none of"),
    "an empty enum": ('{"enum":[]}', "empty enum"),
    "an empty anyOf": ('{"anyOf":[]}', "empty anyOf"),
    "values of another type": ('{"type":"string","enum":[1,2]}', "no value"),
    "a oneOf that overlaps": ('{"oneOf":[{"type":"integer"},{"type":"number"}]}', "plainly apart"),
    "a oneOf of like objects": ('{"oneOf":[{"type":"object"},{"type":"object"}]}', "plainly apart"),
    "an allOf of different types": ('{"allOf":[{"type":"string"},{"type":"null"}]}', "nothing in common"),
    "an allOf of two patterns": ('{"allOf":[{"pattern":"a"},{"pattern":"b"}]}', "two different 'pattern'"),
    "an allOf that closes itself off": (
        '{"allOf":[{"properties":{"a":{}},"additionalProperties":false},{"properties":{"b":{}}}]}',
        "additionalProperties",
    ),
    "a requirement of what is forbidden": (
        '{"type":"object","required":["a"],"additionalProperties":false}',
        "forbids",
    ),
    "a length below nothing": ('{"type":"string","minLength":-1}', "minLength"),
    "a length of billions": ('{"type":"string","maxLength":1e9}', "maxLength"),
    "a length that is true": ('{"type":"string","maxLength":true}', "maxLength"),
    "lengths that cross": ('{"type":"string","minLength":3,"maxLength":2}', "below its minLength"),
    "counts that cross": ('{"type":"array","minItems":3,"maxItems":2}', "below its minItems"),
    "bounds that cross": ('{"type":"integer","minimum":3,"maximum":2}', "no number"),
    "no integer between": ('{"type":"integer","exclusiveMinimum":2,"exclusiveMaximum":3}', "no number"),
    "a bound of the old kind": ('{"type":"integer","minimum":1,"exclusiveMinimum":true}', "exclusiveMinimum"),
    "a bound that no double holds": ('{"type":"integer","minimum":10000000000000000}', "bound"),
    "a bound with a fraction": ('{"type":"number","maximum":0.5}', "no integer"),
    "steps": ('{"type":"number","multipleOf":0.1}', "multipleOf"),
    "an unknown format": ('{"type":"string","format":"iri"}', "'iri'"),
    "a pattern and a length": ('{"type":"string","pattern":"^a+$","maxLength":3}', "length"),
    "too many properties counted": ('{"properties":{"a":{}},"minProperties":1,"type":"object"}', "counts properties"),
    "depth": (json.dumps(NAMED_DEEP), "deeper"),
    "combinations that multiply": (json.dumps(WIDE), "parts"),
    "a name of a thousand characters": (json.dumps({"properties": {"x" * 1000: {}}}), "characters"),
    "a thousand alternatives": (json.dumps({"anyOf": [{}] * 1000}), "more than 64"),
    "ten thousand values": (json.dumps({"enum": list(range(10_000))}), "1024 values"),
}


@pytest.mark.parametrize(("schema", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_schema_that_cannot_be_kept_is_refused_by_name(schema, why):
    with pytest.raises(EngineError) as refusal:
        compiled(schema)
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.SCHEMA_REFUSED, "json_schema")
    assert why in refusal.value.what


NOT_REGULAR = {
    "looking ahead": "^(?=a)",
    "looking behind": "(?<!a)b",
    "a reference back": r"(a)\1",
    "a word boundary": r"\bword\b",
    "a named group": "(?P<x>a)",
    "a flag": "(?i)a",
    "a class by name": "[[:alpha:]]",
    "a property of Unicode": r"\p{L}",
    "an anchor inside": "a(^b)",
    "an anchor in the middle": "a$b",
    "a possessive count": "a++",
    "a count of a count": "a{2}{3}",
    "a count of nothing": "*a",
    "an open group": "(a",
    "a group too many": "a)",
    "an open class": "[a",
    "a class of nothing": "[]",
    "a range backwards": "[z-a]",
    "half an escape": r"\x4",
    "a count backwards": "a{3,2}",
    "a count of millions": "a{9999999}",
    "counts that multiply": "((a{9}b){99}c){99}",
    "a bomb of optional parts": "(a*)*",
    "a bomb of empty alternatives": "(a|b?)+",
    "300 groups": "(" * 300 + "a" + ")" * 300,
    "a pattern of 3,000 characters": "a" * 3000,
}


@pytest.mark.parametrize("pattern", NOT_REGULAR.values(), ids=NOT_REGULAR.keys())
def test_a_pattern_that_is_not_plainly_regular_is_refused(pattern):
    with pytest.raises(EngineError) as refusal:
        compiled(json.dumps({"type": "string", "pattern": pattern}))
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.SCHEMA_REFUSED, "json_schema")


ATOMS = st.sampled_from(
    ["a", "b", r"\d", r"\w", r"\s", r"\S", r"\D", ".", "[a-c]", "[^a]", r"[\w-]", '"', r"\\", "é", r"\."]
)
REGEXES = st.recursive(
    ATOMS,
    lambda parts: st.one_of(
        st.tuples(parts, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        st.lists(parts, min_size=1, max_size=3).map("".join),
        st.lists(parts, min_size=2, max_size=3).map(lambda some: f"({'|'.join(some)})"),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(REGEXES, st.sampled_from(["^{}$", "{}", "^{}", "{}$"]), st.integers(0, 999))
def test_what_a_pattern_admits_is_found_by_the_pattern(regex, anchors, seed):
    pattern = anchors.format(regex)
    try:
        grammar = compiled(json.dumps({"type": "string", "pattern": pattern}))
    except EngineError:
        assume(False)
    text = json.loads(Writer(grammar).text(seed, 60))
    assert re.search(pattern, text)
    least, most = patterns.lengths(patterns.parsed(pattern))
    assert least <= len(text) <= (len(text) if most is None else most)


@settings(max_examples=150, deadline=None)
@given(st.integers(-2000, 2000), st.integers(-2000, 2000), st.booleans(), st.booleans(), st.integers(-2100, 2100))
def test_integers_are_admitted_exactly_within_their_bounds(low, high, low_open, high_open, number):
    text = integers(Bounds(low, high, low_open, high_open))
    inside = (low < number or (low == number and not low_open)) and (
        number < high or (number == high and not high_open)
    )
    if text is None:
        assert not inside
    else:
        assert admits(Rules().text(text), str(number)) == inside


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.none(), st.integers(-60, 60)),
    st.one_of(st.none(), st.integers(-60, 60)),
    st.booleans(),
    st.booleans(),
    st.decimals(-70, 70, places=2),
)
def test_numbers_are_admitted_exactly_within_their_bounds(low, high, low_open, high_open, number):
    text = numbers(Bounds(low, high, low_open and low is not None, high_open and high is not None))
    inside = low is None or low < number or (low == number and not low_open)
    inside = inside and (high is None or number < high or (number == high and not high_open))
    written = str(number.normalize() + 0) if number else "0"
    if text is None:
        assert not inside
    elif "E" not in written:
        assert admits(Rules().text(text), written) == inside


BOUND = st.one_of(st.none(), st.integers(-50, 1000))
COUNT = st.one_of(st.none(), st.integers(0, 3))
NAMES = st.sampled_from(["a", "ab", "b", 'q"', "é", "long name"])


def pruned(schema):
    return {key: value for key, value in schema.items() if value is not None}


def objects(parts):
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(NAMES, parts, max_size=3)},
        optional={"additionalProperties": st.one_of(st.booleans(), parts), "required": st.lists(NAMES, max_size=2)},
    )


def arrays(parts):
    return st.fixed_dictionaries(
        {"type": st.just("array"), "minItems": COUNT, "maxItems": COUNT},
        optional={"items": parts, "prefixItems": st.lists(parts, min_size=1, max_size=2)},
    ).map(pruned)


SCALARS = st.one_of(
    st.sampled_from([{}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"type": "number"}]),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": COUNT, "maxLength": COUNT}).map(pruned),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": BOUND, "exclusiveMaximum": BOUND}).map(pruned),
    st.fixed_dictionaries({"type": st.just("number"), "exclusiveMinimum": BOUND, "maximum": BOUND}).map(pruned),
    st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "duration", "uri"]).map(
        lambda name: {"type": "string", "format": name}
    ),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none(), st.booleans()), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda parts: st.one_of(
        objects(parts),
        arrays(parts),
        st.lists(parts, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        st.lists(parts, min_size=2, max_size=2).map(lambda some: {"oneOf": some}),
        st.lists(objects(parts), min_size=1, max_size=2).map(lambda some: {"allOf": some}),
        objects(parts).map(lambda part: {"$defs": {"one": part}, "anyOf": [{"$ref": "#/anyOf/1"}, {"const": 1}]}),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, st.integers(0, 999))
def test_whatever_a_schema_admits_satisfies_it(schema, seed):
    try:
        grammar = compiled(json.dumps(schema))
    except EngineError as refusal:
        assume(refusal is None)
    text = Writer(grammar).text(seed)
    assert satisfies(schema, text)


@given(st.text(max_size=10))
def test_any_text_can_be_a_value(text):
    assume(all(char != "\0" for char in text))
    assert admits(Rules().text(literal(json.dumps(text, ensure_ascii=False))), json.dumps(text, ensure_ascii=False))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "items",
                        "properties",
                        "anyOf",
                        "$ref",
                        "enum",
                        "minLength",
                        "pattern",
                        "required",
                        "allOf",
                        "oneOf",
                        "maximum",
                        "prefixItems",
                        "const",
                    ]
                ),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_any_json_is_compiled_or_refused(schema):
    try:
        compiled(json.dumps(schema))
    except EngineError as refusal:
        kind = refusal.kind
    else:
        kind = ErrorKind.SCHEMA_REFUSED
    assert kind is ErrorKind.SCHEMA_REFUSED
