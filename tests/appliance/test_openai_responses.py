"""``/v1/responses`` as the unmodified ``openai`` package sees it, stateless."""

import json
import tempfile
import typing
from pathlib import Path

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import response_create_params as sdk
from pydantic import BaseModel

from appliance.api_site import MODEL, ApiSite
from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.openai.response_fields import RESPONSES, ResponseFields, parse

MEASURE = {"type": "function", "name": "measure", "parameters": {"type": "object"}, "strict": True}
CALLING = ("<tool_call>\n", '{"name": "measure", ', '"arguments": {"what": "sea"}}', "\n</tool_call>")
LIMITS = Limits()


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def ask(site, text="how wide is it", **options):
    return await site.client.responses.create(model=MODEL, input=text, **options)


async def streamed(site, **options):
    """The events, and the response that the SDK's helper makes of them."""
    async with site.client.responses.stream(model=MODEL, input="how wide is it", **options) as stream:
        events = [event async for event in stream]
        return events, await stream.get_final_response()


async def collect(stream, events):
    """Read a stream into ``events`` for as long as it goes."""
    async for event in stream:
        events.append(event)


async def test_a_response_comes_whole_with_its_usage(site):
    site.with_engine(cached=3)
    response = await ask(site, instructions="be brief", metadata={"a": "b"}, temperature=0.5)
    assert response.output_text == "The sea is wide."
    assert (response.status, response.store, response.instructions) == ("completed", False, "be brief")
    assert (response.metadata, response.temperature) == ({"a": "b"}, 0.5)
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (6, 4, 10)
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert [message.role for message in site.engine.prepares[0].messages] == ["system", "user"]
    await site.settled()
    assert site.rows()[0].completion_tokens == 4


async def test_a_stream_tells_each_item_from_its_opening_to_its_end(site):
    events, response = await streamed(site)
    assert [event.type for event in events if "delta" not in event.type] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta") == response.output_text
    )
    assert response.output_text == "The sea is wide."
    assert response.usage.output_tokens == 4


async def test_a_response_cut_by_its_limit_is_incomplete_and_says_why(site):
    response = await ask(site, max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    events = [event async for event in await ask(site, max_output_tokens=2, stream=True)]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == "The sea "


async def test_reasoning_and_a_call_are_items_of_their_own(site):
    site.with_engine(family="hermes", thinking=True, pieces=("Well.", "</think>", *CALLING))
    response = await ask(site, tools=[MEASURE], reasoning={"effort": "low"})
    thought, call = response.output
    assert (thought.type, thought.content[0].text) == ("reasoning", "Well.")
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "measure", {"what": "sea"})
    assert response.tools[0].name == "measure"
    assert response.usage.output_tokens_details.reasoning_tokens > 0


async def test_a_call_streams_and_its_output_goes_back_with_what_was_thought(site):
    site.with_engine(family="hermes", thinking=True, pieces=("Well.", "</think>", *CALLING))
    events, response = await streamed(site, tools=[MEASURE])
    thought, call = response.output
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    back = [
        {"role": "user", "content": "how wide is it"},
        *(item.model_dump(exclude_none=True) for item in (thought, call)),
        {"type": "function_call_output", "call_id": call.call_id, "output": "wide"},
    ]  # fmt: skip
    for item in back:
        item.pop("parsed_arguments", None)
    await ask(site, back, tools=[MEASURE])
    _, assistant, tool = site.engine.prepares[-1].messages
    assert (assistant.reasoning, assistant.tool_calls[0].name) == ("Well.", "measure")
    assert tool.tool_call_id == assistant.tool_calls[0].id


async def test_a_schema_of_the_sdks_own_making_is_answered_as_its_type(site):
    class Sea(BaseModel):
        width: int

    site.with_engine(pieces=('{"width"', ": 7}"))
    response = await site.client.responses.parse(model=MODEL, input="how wide is it", text_format=Sea)
    assert response.output_parsed == Sea(width=7)


async def test_log_probabilities_come_with_the_text(site):
    response = await ask(site, include=["message.output_text.logprobs"], top_logprobs=1)
    known = response.output[0].content[0].logprobs
    assert "".join(each.token for each in known) == "The sea is wide."


async def test_a_failure_after_the_beginning_is_told_in_the_stream(site):
    site.with_engine(die_after=2, cut_only=True, deaths=9)
    events = []
    with pytest.raises(openai.APIError):
        await collect(await ask(site, stream=True), events)
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error.message
    await site.settled()
    assert site.rows()[0].outcome in {"engine_lost", "internal"}


@pytest.mark.parametrize(
    "asked",
    [{"store": True}, {"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "c"},
     {"truncation": "auto"}, {"tools": [{"type": "web_search"}]}, {"input": [{"type": "item_reference", "id": "x"}]}],
    ids=lambda asked: next(iter(asked)),
)  # fmt: skip
async def test_what_needs_something_stored_or_run_here_is_a_400_by_name(site, asked):
    with pytest.raises(openai.BadRequestError) as refused:
        await site.client.responses.create(**{"model": MODEL, "input": "hi", **asked})
    assert refused.value.param.split("[")[0] == next(iter(asked))
    assert site.engine.prepares == []


def test_every_parameter_of_the_sdk_is_in_exactly_one_table():
    parameters = set(typing.get_type_hints(sdk.ResponseCreateParamsStreaming))
    tables = [set(RESPONSES.honoured), set(RESPONSES.ignored), set(RESPONSES.refused)]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set().union(*tables) == parameters
    assert not RESPONSES.extensions & parameters
    assert {field.name for field in msgspec.structs.fields(ResponseFields)} == RESPONSES.honoured | RESPONSES.extensions


def response(**changes):
    return json.dumps({"model": MODEL, "input": "hi", **changes}).encode("utf-8", "surrogatepass")


def test_what_an_assistant_did_in_a_row_is_one_turn():
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "id": "m", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "ho", "annotations": []}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"role": "assistant", "content": "so"},
        {"role": "assistant", "content": "and so"},
    ]  # fmt: skip
    messages = parse(response(input=items), LIMITS).prompt.messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant", "assistant"]
    turn = messages[1]
    assert (turn.reasoning, turn.content, [call.name for call in turn.tool_calls]) == ("hm", "ho", ["f", "g"])
    assert [message.content for message in messages[3:]] == ["so", "and so"]


def test_an_image_is_taken_from_its_address_alone():
    image = {"type": "input_image", "image_url": "data:image/png;base64,cG5n", "detail": "auto"}
    prompt = parse(response(input=[{"role": "user", "content": [image]}]), LIMITS).prompt
    assert (prompt.messages[0].content, prompt.images) == ((frames.ImagePart(0),), (b"png",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted({*RESPONSES.honoured, *RESPONSES.ignored, *RESPONSES.refused})) | st.text(max_size=12)


@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_object_is_read_or_refused_with_a_400(fields):
    try:
        parse(response(**fields), LIMITS)
    except PlugskyError as error:
        assert error.kind.value.status == 400  # noqa: PT017 - most bodies are refused, some are read
