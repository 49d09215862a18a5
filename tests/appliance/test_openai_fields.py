"""Reading chat bodies: the three tables, types, bounds, and whatever strangers may send."""

import json
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import completion_create_params as sdk

from appliance.api_site import MODEL
from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.openai.fields import ChatFields, parse
from plugsky.server.openai.tables import EXTENSIONS, HONOURED, IGNORED, REFUSED

USER = {"role": "user", "content": "hi"}
LIMITS = Limits()


def chat(**changes):
    return json.dumps({"model": MODEL, "messages": [USER], **changes}).encode()


REFUSED_FIELDS = {
    "an unknown name": ({"colour": "blue"}, "colour", "unsupported_field"),
    "an unknown name that is null": ({"colour": None}, "colour", "unsupported_field"),
    "a tool of another kind": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", None),
    "two tools of a name": (
        {"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools", None,
    ),
    "a choice of no tool": (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name", None,
    ),
    "a call that must be and cannot": ({"tool_choice": "required"}, "tool_choice", None),
    "a form nobody knows": ({"response_format": {"type": "poem"}}, "response_format.type", None),
    "rivals without log-probabilities": ({"top_logprobs": 2}, "top_logprobs", None),
    "more rivals than are told": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
    "no answers": ({"n": 0}, "n", None),
    "nine answers": ({"n": 9}, "n", None),
    "a billion answers": ({"n": 10**9}, "n", None),
    "n that is true": ({"n": True}, "n", None),
    "a stored answer": ({"store": True}, "store", "unsupported_field"),
    "a part of an unknown kind": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[0].content[0].type", None,
    ),
    "a part of no kind": (
        {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type", None,
    ),
    "a text without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", None,
    ),
    "a tool's answer to nothing": ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].tool_call_id", None),
    "a call in the history without a name": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "x"}]}]},
        "messages[1].tool_calls[0].function", None,
    ),
    "a user who calls": (
        {"messages": [{**USER, "tool_calls": [{"id": "x", "function": {"name": "f"}}]}]},
        "messages[0].tool_calls", None,
    ),
    "an image that would have to be fetched": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
        "messages[0].content[0].image_url.url", None,
    ),
    "an image that is no base64": (
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,*"}}]}]},
        "messages[0].content[0].image_url.url", None,
    ),
    "an unknown template option": ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x", "unsupported_field"),
    "an unknown name in a message": ({"messages": [{**USER, "mood": 1}]}, "messages[0].mood", "unsupported_field"),
    "no model": ({"model": None}, "model", None),
    "no messages": ({"messages": []}, "messages", None),
    "messages that are text": ({"messages": "hi"}, "messages", None),
    "content that is a number": ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", None),
    "content that is missing": ({"messages": [{"role": "user"}]}, "messages[0].content", None),
    "a role nobody has": ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role", None),
    "too many messages": ({"messages": [USER] * 2049}, "messages", None),
    "a temperature that is text": ({"temperature": "hot"}, "temperature", None),
    "a temperature too high": ({"temperature": 2.1}, "temperature", None),
    "a top_p above one": ({"top_p": 1.5}, "top_p", None),
    "no tokens at all": ({"max_tokens": 0}, "max_tokens", None),
    "more tokens than a number holds": ({"max_completion_tokens": 2**31}, "max_completion_tokens", None),
    "a fraction of a token": ({"max_tokens": 1.5}, "max_tokens", None),
    "ten thousand stop strings": ({"stop": ["x"] * 10_000}, "stop", None),
    "an empty stop string": ({"stop": ""}, "stop", None),
    "a stop string without end": ({"stop": "x" * 257}, "stop", None),
    "a bias on a word": ({"logit_bias": {"sea": 1}}, "logit_bias", None),
    "a bias on a negative token": ({"logit_bias": {"-1": 1}}, "logit_bias", None),
    "a bias beyond a hundred": ({"logit_bias": {"1": 101}}, "logit_bias", None),
    "stream options without a stream": ({"stream_options": {"include_usage": True}}, "stream_options", None),
    "stream that is text": ({"stream": "yes"}, "stream", None),
    "a seed that is text": ({"seed": "7"}, "seed", None),
    "a seed of ten thousand digits": (None, "seed", None),
}  # fmt: skip


def refused_body(case):
    """The bytes of a case of REFUSED_FIELDS."""
    changes = REFUSED_FIELDS[case][0]
    return chat(**changes) if changes is not None else chat()[:-1] + b', "seed": ' + b"9" * 10_000 + b"}"


BAD_BODIES = {
    "nothing": b"",
    "half of it": b'{"model": "poet',
    "not JSON": b"model=poet",
    "a list": b"[]",
    "NaN": b'{"model": "poet-1b", "temperature": NaN}',
    "NaN in an ignored field": b'{"model": "poet-1b", "metadata": {"x": NaN}, "messages": []}',
    "a number beyond floats": chat()[:-1] + b', "temperature": 1e999}',
    "a number beyond floats in a refused field": chat()[:-1] + b', "functions": 1e999}',
    "a number beyond 64 bits in a schema": chat()[:-1] + b', "tools": [{"type": "function", "function": {"name": "f", '
    b'"parameters": {"minimum": -9223372036854775809}}}]}',
    "half of a surrogate pair": b'{"model": "poet-1b", "messages": [{"role":"user","content":"\\ud800"}]}',
    "bytes that are no UTF-8": b'{"model": "poet-1b", "messages": [{"role":"user","content":"\xff\xfe"}]}',
    "100,000 brackets": b'{"model": ' + b"[" * 50_000,
    "brackets in an ignored field": b'{"metadata": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "brackets in a message": b'{"messages": ' + b'[{"content":' * 5000,
}


@pytest.mark.parametrize("case", REFUSED_FIELDS)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_name(case):
    _, param, code = REFUSED_FIELDS[case]
    with pytest.raises(PlugskyError) as refused:
        parse(refused_body(case), LIMITS)
    assert (refused.value.param, refused.value.kind.value.openai_code) == (param, code)
    assert refused.value.kind.value.status == 400


def test_the_address_of_an_image_is_neither_looked_at_nor_repeated():
    image = {"type": "image_url", "image_url": {"url": "http://x/secret"}}
    with pytest.raises(PlugskyError) as refused:
        parse(chat(messages=[{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]), LIMITS)
    assert "secret" not in refused.value.what + refused.value.why + refused.value.next


def test_parts_with_images_keep_their_places():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    parts = [{"type": "text", "text": "What is"}, image, {"type": "text", "text": "this?"}]
    prompt = parse(chat(messages=[{"role": "user", "content": parts}]), LIMITS).prompt
    assert prompt.messages[0].content == ("What is", frames.ImagePart(0), "this?")
    assert prompt.images == (b"png",)


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


CHOICES = {
    "nothing": (None, ("f", "g"), "auto", ""),
    "none": ("none", ("f", "g"), "none", ""),
    "required": ("required", ("f", "g"), "required", ""),
    "one by name": ({"type": "function", "function": {"name": "g"}}, ("f", "g"), "required", "g"),
    "some of them": (
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "g"}}]}},
        ("g",), "required", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_a_choice_among_tools_becomes_what_the_engine_offers(case):
    choice, names, how, named = CHOICES[case]
    prompt = parse(chat(tools=[tool("f"), tool("g")], tool_choice=choice), LIMITS).prompt
    assert tuple(each.name for each in prompt.tools) == names
    assert (prompt.tool_choice, prompt.tool_name) == (how, named)
    assert prompt.callable == (frozenset() if how == "none" else frozenset(names))


def test_a_schema_reaches_the_engine_letter_by_letter():
    form = '{"type": "json_schema", "json_schema": {"name": "s", "schema": {"b": 1, "a": [ 2 ]}}}'
    body = chat()[:-1] + f', "response_format": {form}}}'.encode()
    assert parse(body, LIMITS).prompt.json_schema == '{"b": 1, "a": [ 2 ]}'
    assert parse(chat(response_format={"type": "json_object"}), LIMITS).prompt.json_schema == '{"type":"object"}'
    assert not parse(chat(response_format={"type": "text"}), LIMITS).prompt.json_schema


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_whether_to_think_may_be_told_by_either_name(name):
    assert parse(chat(chat_template_kwargs={name: False}), LIMITS).prompt.thinking is False
    assert parse(chat(), LIMITS).prompt.thinking is None


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_cannot_be_read_is_refused(case):
    with pytest.raises(PlugskyError) as refused:
        parse(BAD_BODIES[case], LIMITS)
    assert refused.value.kind.value.status == 400


def test_every_parameter_of_the_sdk_is_in_exactly_one_table():
    parameters = set(typing.get_type_hints(sdk.CompletionCreateParamsStreaming))
    tables = [set(HONOURED), set(IGNORED), set(REFUSED)]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set().union(*tables) == parameters
    assert not EXTENSIONS & parameters


def test_what_is_honoured_is_what_is_read():
    assert {field.name for field in msgspec.structs.fields(ChatFields)} == HONOURED | EXTENSIONS


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, refused in REFUSED.items() for value in (None, *refused.harmless)]
)
def test_a_value_that_asks_for_nothing_is_taken_without_a_word(name, value):
    assert parse(chat(**{name: value}), LIMITS).ignored == ()


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_has_no_effect_is_taken_and_told(name):
    assert parse(chat(**{name: "x"}), LIMITS).ignored == (name,)
    assert parse(chat(**{name: None}), LIMITS).ignored == ()


def test_null_is_the_same_as_an_absent_name():
    nulls = dict.fromkeys((HONOURED | EXTENSIONS) - {"model", "messages"})
    assert parse(chat(**nulls), LIMITS) == parse(chat(), LIMITS)


def test_the_newer_name_of_the_token_limit_wins():
    assert parse(chat(max_tokens=9, max_completion_tokens=3), LIMITS).max_tokens == 3


@pytest.mark.parametrize(("sent", "used"), [(7, 7), (2**32, 0), (-1, 2**32 - 1), (2**70 + 5, 5)])
def test_a_seed_of_any_size_is_reduced_to_32_bits(sent, used):
    assert parse(chat(seed=sent), LIMITS).params.seed == used


def test_an_error_does_not_repeat_the_value():
    with pytest.raises(PlugskyError) as refused:
        parse(chat(messages=[{"role": "my secret", "content": "hi"}]), LIMITS)
    assert "my secret" not in refused.value.what + refused.value.why


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted(HONOURED | EXTENSIONS | IGNORED.keys() | REFUSED.keys())) | st.text(max_size=12)


@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_object_is_read_or_refused_with_a_400(fields):
    try:
        parse(json.dumps({"model": MODEL, "messages": [USER], **fields}).encode("utf-8", "surrogatepass"), LIMITS)
    except PlugskyError as error:
        assert error.kind.value.status == 400  # noqa: PT017 - most bodies are refused, some are read


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_400(body):
    with pytest.raises(PlugskyError) as refused:
        parse(body, LIMITS)
    assert refused.value.kind.value.status == 400
