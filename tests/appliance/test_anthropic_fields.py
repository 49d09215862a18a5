"""Reading Anthropic's bodies: the three tables, blocks and turns, types, bounds, and whatever strangers may send."""

import json
import typing

import anthropic.types
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api_site import MODEL
from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.anthropic.errors import SHOWN
from plugsky.server.anthropic.fields import CountTokensFields, MessagesFields, parse, parse_count
from plugsky.server.anthropic.tables import COUNT_TOKENS, MESSAGES

USER = {"role": "user", "content": "hi"}
LIMITS = Limits()
TOOL = {"name": "measure", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "t1", "name": "measure", "input": {"what": "sea"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "wide"}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "cG5n"}}


def body(**changes):
    return json.dumps({"model": MODEL, "max_tokens": 9, "messages": [USER], **changes}).encode()


def turns(*messages, **changes):
    """The messages that a conversation becomes."""
    said = [{"role": role, "content": content} for role, content in messages]
    return parse(body(messages=said, **changes), LIMITS).prompt.messages


def user(*blocks):
    return {"messages": [{"role": "user", "content": list(blocks)}]}


REFUSED = {
    "an unknown name": ({"colour": "blue"}, "colour"),
    "no token limit": ({"max_tokens": None}, "max_tokens"),
    "a token limit of none": ({"max_tokens": 0}, "max_tokens"),
    "no message": ({"messages": []}, "messages"),
    "too many messages": ({"messages": [USER] * (LIMITS.max_messages + 1)}, "messages"),
    "an answer begun for the model": ({"messages": [USER, {"role": "assistant", "content": "I"}]}, "messages"),
    "a role nobody has": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "a block nobody knows": (user({"type": "document"}), "messages[0].content[0]"),
    "the address of an image": (
        user({"type": "image", "source": {"type": "url", "url": "http://x/secret"}}),
        "messages[0].content[0].source",
    ),
    "an image of another kind": (
        user({"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "cG5n"}}),
        "messages[0].content[0].source.media_type",
    ),
    "an image that is no base64": (
        user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "secret!"}}),
        "messages[0].content[0].source.data",
    ),
    "a result of no call": (user(RESULT), "messages[0].content[0].tool_use_id"),
    "a call by the user": (user(CALL), "messages[0].content[0]"),
    "a call whose input is no object": (
        {"messages": [{"role": "assistant", "content": [{**CALL, "input": [1]}]}, USER]},
        "messages[0].content[0].input",
    ),
    "a tool that the vendor runs": ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
    "a tool without a schema": ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    "two tools of a name": ({"tools": [TOOL, TOOL]}, "tools"),
    "a choice of no tool": ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name"),
    "a call that must be and cannot": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "more stop strings than are looked for": (
        {"stop_sequences": ["x"] * (LIMITS.max_stop_strings + 1)}, "stop_sequences",
    ),
    "an empty stop string": ({"stop_sequences": [""]}, "stop_sequences"),
    "a temperature beyond the range": ({"temperature": 1.1}, "temperature"),
    "a container": ({"container": "c1"}, "container"),
    "a place to run in": ({"inference_geo": "us"}, "inference_geo"),
    "an effort without a measure": ({"output_config": {"effort": "max"}}, "output_config.effort"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_a_400_that_names_the_place_and_not_the_value(case):
    changes, place = REFUSED[case]
    with pytest.raises(PlugskyError) as refused:
        parse(body(**changes), LIMITS)
    assert SHOWN[refused.value.kind] == (400, "invalid_request_error")
    assert refused.value.param.startswith(place)
    assert "secret" not in refused.value.what + refused.value.why


def test_messages_of_one_role_are_one_turn_and_the_system_comes_first():
    said = turns(
        ("user", "one"), ("user", [{"type": "text", "text": "two"}]), ("assistant", "three"), ("user", "four"),
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
    )  # fmt: skip
    assert [(turn.role, turn.content) for turn in said] == [
        ("system", "Be\nbrief."), ("user", "one\ntwo"), ("assistant", "three"), ("user", "four"),
    ]  # fmt: skip


def test_a_result_is_a_turn_of_its_own_and_knows_the_name_of_the_call():
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    said = turns(
        ("user", "how wide?"),
        ("assistant", [thought, {"type": "text", "text": "I look."}, CALL]),
        ("user", [RESULT, {"type": "text", "text": "So?"}]),
    )
    _, called, answered, asked = said
    assert (called.reasoning, called.content) == ("Hm.", "I look.")
    assert [(call.id, call.name, json.loads(call.arguments)) for call in called.tool_calls] == [
        ("t1", "measure", {"what": "sea"})
    ]
    assert (answered.role, answered.tool_call_id, answered.name, answered.content) == ("tool", "t1", "measure", "wide")
    assert (asked.role, asked.content) == ("user", "So?")


def test_images_keep_their_places():
    prompt = parse(
        body(**user({"type": "text", "text": "What is"}, PNG, {"type": "text", "text": "this?"})), LIMITS
    ).prompt
    assert prompt.messages[0].content == ("What is", frames.ImagePart(0), "this?")
    assert prompt.images == (b"png",)


CHOICES = {
    "nothing": (None, "auto", "", True),
    "none": ({"type": "none"}, "none", "", True),
    "any": ({"type": "any"}, "required", "", True),
    "one by name": ({"type": "tool", "name": "measure"}, "required", "measure", True),
    "one at a time": ({"type": "auto", "disable_parallel_tool_use": True}, "auto", "", False),
}


@pytest.mark.parametrize("case", CHOICES)
def test_a_choice_among_tools_becomes_what_the_engine_offers(case):
    choice, how, named, parallel = CHOICES[case]
    prompt = parse(body(tools=[TOOL], tool_choice=choice), LIMITS).prompt
    assert (prompt.tool_choice, prompt.tool_name, prompt.parallel_tool_calls) == (how, named, parallel)
    assert [tool.name for tool in prompt.tools] == ["measure"]


THINKING = {
    "absent": (None, None, ()),
    "enabled": ({"type": "enabled", "budget_tokens": 2000}, True, ("thinking.budget_tokens",)),
    "adaptive": ({"type": "adaptive", "display": "summarized"}, None, ("thinking.display",)),
    "disabled": ({"type": "disabled"}, False, ()),
}


@pytest.mark.parametrize("case", THINKING)
def test_whether_to_think_first_is_told_to_the_engine(case):
    asked, thinks, ignored = THINKING[case]
    request = parse(body(thinking=asked), LIMITS)
    assert (request.prompt.thinking, request.ignored) == (thinks, ignored)


def test_a_schema_for_the_answer_reaches_the_engine_letter_by_letter():
    config = b'"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"b": 1, "a": [ 2 ]}}}'
    prompt = parse(body()[:-1] + b", " + config + b"}", LIMITS).prompt
    assert (prompt.json_schema, prompt.reasoning_effort) == ('{"b": 1, "a": [ 2 ]}', "low")


def test_the_marks_of_caches_and_other_things_without_effect_are_told_of():
    mark = {"cache_control": {"type": "ephemeral"}}
    said = [
        USER,
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, {**CALL, **mark}]},
        {"role": "user", "content": [{**RESULT, "is_error": True}]},
    ]
    request = parse(body(messages=said, tools=[{**TOOL, **mark, "input_examples": [{}]}], speed="fast"), LIMITS)
    assert request.ignored == (
        "cache_control", "messages.content.is_error", "messages.content.redacted_thinking", "speed",
        "tools.input_examples",
    )  # fmt: skip


TABLES = {
    "messages": (MESSAGES, MessagesFields, "message_create_params", "MessageCreateParamsStreaming"),
    "count_tokens": (COUNT_TOKENS, CountTokensFields, "message_count_tokens_params", "MessageCountTokensParams"),
}


@pytest.mark.parametrize("endpoint", TABLES)
def test_every_parameter_of_the_sdk_is_in_exactly_one_table(endpoint):
    table, _, module, name = TABLES[endpoint]
    parameters = set(typing.get_type_hints(getattr(getattr(anthropic.types, module), name)))
    tables = [set(table.honoured), set(table.ignored), set(table.refused)]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set().union(*tables) == parameters
    assert not table.extensions & parameters


@pytest.mark.parametrize("endpoint", TABLES)
def test_what_is_honoured_is_what_is_read(endpoint):
    table, fields, *_ = TABLES[endpoint]
    assert {field.name for field in msgspec.structs.fields(fields)} == table.honoured | table.extensions


def test_null_is_the_same_as_an_absent_name():
    nulls = dict.fromkeys((MESSAGES.honoured | MESSAGES.extensions) - {"model", "messages", "max_tokens"})
    assert parse(body(**nulls), LIMITS) == parse(body(), LIMITS)


def test_a_count_takes_what_makes_the_prompt_and_nothing_else():
    prompt = {"model": MODEL, "messages": [USER], "system": "Be brief.", "tools": [TOOL]}
    assert parse_count(json.dumps(prompt).encode(), LIMITS).prompt == parse(body(**prompt), LIMITS).prompt
    with pytest.raises(PlugskyError) as refused:
        parse_count(body(), LIMITS)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.UNSUPPORTED_FIELD, "max_tokens")


def test_every_kind_of_failure_has_a_status_and_a_type():
    assert set(SHOWN) == set(ErrorKind)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
VALUES = st.sampled_from([None, True, 1, "x", "", [], {}, ["x"], {"type": "text", "text": "x"}])
PLACES = ("text", "id", "name", "input", "tool_use_id", "content", "data", "source", "thinking", "cache_control")
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "x"])},
    optional=dict.fromkeys(PLACES, VALUES),
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(BLOCKS, max_size=3)}
    ),
    max_size=3,
)
NAMES = st.sampled_from(sorted(MESSAGES.honoured | MESSAGES.extensions | {*MESSAGES.ignored, *MESSAGES.refused}))


@given(st.dictionaries(NAMES | st.text(max_size=12), JSON, max_size=6))
def test_any_json_object_is_read_or_refused_with_a_400(fields):
    read_or_refused({"model": MODEL, "max_tokens": 9, "messages": [USER], **fields})


@given(TURNS)
def test_any_blocks_are_read_or_refused_with_a_400(messages):
    read_or_refused({"model": MODEL, "max_tokens": 9, "messages": messages})


def read_or_refused(fields):
    try:
        parse(json.dumps(fields).encode("utf-8", "surrogatepass"), LIMITS)
    except PlugskyError as error:
        assert SHOWN[error.kind][0] == 400  # noqa: PT017 - most bodies are refused, some are read


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_400(data):
    with pytest.raises(PlugskyError) as refused:
        parse(data, LIMITS)
    assert SHOWN[refused.value.kind][0] == 400
