"""Anthropic's endpoints, as its own unmodified SDK sees them over HTTP."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api_site import MODEL, ApiSite
from plugsky.core import frames
from plugsky.core.policy import Limits
from plugsky.server.anthropic.fields import parse
from plugsky.server.anthropic.shapes import Message
from plugsky.server.said import Said
from plugsky.server.settlement import News

ASKED = [{"role": "user", "content": "how wide is it"}]
MEASURE = {"name": "measure", "input_schema": {"type": "object"}}
CALLING = ("<tool_call>\n", '{"name": "measure", ', '"arguments": {"what": "sea"}}', "\n</tool_call>")


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def sdk(site, prefix="/anthropic", key=None):
    """The unmodified SDK on this site."""
    base = f"http://127.0.0.1:{site.port}{prefix}"
    client = anthropic.AsyncAnthropic(base_url=base, api_key=key or site.key, max_retries=0, timeout=20)
    site.clients.append(client)
    return client


async def ask(site, **options):
    given = {"model": MODEL, "max_tokens": 20, "messages": ASKED, **options}
    return await sdk(site).messages.create(**given)


async def streamed(site, **options):
    """The whole message that the SDK's own helper makes of a stream."""
    given = {"model": MODEL, "max_tokens": 20, "messages": ASKED, **options}
    async with sdk(site).messages.stream(**given) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize("prefix", ["", "/anthropic"])
async def test_a_message_is_answered_with_its_usage_and_its_ids(site, prefix):
    site.with_engine(cached=3)
    raw = await sdk(site, prefix).messages.with_raw_response.create(model=MODEL, max_tokens=20, messages=ASKED)
    answer = await raw.parse()
    assert [(block.type, block.text) for block in answer.content] == [("text", "The sea is wide.")]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", MODEL)
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (1, 3, 4)
    assert answer.id == f"msg_{raw.headers['request-id']}"
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    await site.settled()
    (row,) = site.rows()
    assert (row.prompt_tokens, row.completion_tokens, row.outcome) == (4, 4, "stop")


async def test_a_stream_says_the_same_in_the_vendors_events(site):
    create = sdk(site).messages.create
    events = [event async for event in await create(model=MODEL, max_tokens=20, messages=ASKED, stream=True)]
    assert [event.type for event in events] == [
        "message_start", "content_block_start", *["content_block_delta"] * 4, "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert events[0].message.usage.input_tokens == 4
    assert "".join(event.delta.text for event in events[2:6]) == "The sea is wide."
    assert events[-2].usage.output_tokens == 4
    whole, joined = await ask(site), await streamed(site)
    assert joined.model_dump(exclude={"id", "parsed_output"}) == whole.model_dump(exclude={"id"})


async def test_the_bytes_of_a_stream_name_each_event_and_begin_with_a_ping(site):
    body = json.dumps({"model": MODEL, "max_tokens": 20, "messages": ASKED, "stream": True}).encode()
    status, headers, data = await site.post(body, "/v1/messages")
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert b'event: ping\ndata: {"type":"ping"}' in data
    for line, following in pairwise(data.split(b"\n")):
        if line.startswith(b"event: "):
            assert json.loads(following.removeprefix(b"data: "))["type"] == line.removeprefix(b"event: ").decode()


async def test_the_stop_string_that_ended_an_answer_is_named(site):
    site.with_engine(stop="END")
    answer = await ask(site, stop_sequences=["STOP", "END"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")
    joined = await streamed(site, stop_sequences=["STOP", "END"])
    assert (joined.stop_reason, joined.stop_sequence) == ("stop_sequence", "END")
    assert site.engine.submits[0].params.stop == ("STOP", "END")


async def test_the_token_limit_is_told_as_the_end(site):
    assert (await ask(site, max_tokens=2)).stop_reason == "max_tokens"


async def test_a_call_of_a_tool_and_its_result_go_to_and_fro(site):
    site.with_engine(family="hermes", pieces=CALLING)
    answer = await ask(site, tools=[MEASURE])
    (call,) = answer.content
    assert (answer.stop_reason, call.type, call.name, call.input) == (
        "tool_use",
        "tool_use",
        "measure",
        {"what": "sea"},
    )
    joined = await streamed(site, tools=[MEASURE], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert (joined.stop_reason, joined.content[0].input) == ("tool_use", {"what": "sea"})
    assert site.engine.prepares[-1].parallel_tool_calls is False
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "wide"}]}
    again = [*ASKED, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    await ask(site, messages=again, tools=[MEASURE])
    _, called, answered = site.engine.prepares[-1].messages
    assert called.tool_calls[0].id == answered.tool_call_id == call.id
    assert answered.content == "wide"


async def test_a_call_that_the_token_limit_cut_is_not_to_be_used(site):
    site.with_engine(family="hermes", pieces=CALLING)
    answer = await ask(site, tools=[MEASURE], max_tokens=2)
    assert answer.stop_reason == "max_tokens"
    assert all(block.type != "tool_use" or block.input == {} for block in answer.content)


async def test_thinking_is_a_block_of_its_own_that_may_be_sent_back(site):
    site.with_engine(family="hermes", thinking=True, pieces=("Well, ", "the sea", "</think>", "Wide."))
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = await ask(site, thinking=thinking)
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("Well, the sea", "Wide.")
    assert (await streamed(site, thinking=thinking)).content[0].thinking == "Well, the sea"
    again = [*ASKED, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "So?"}]
    await ask(site, messages=again)
    assert site.engine.prepares[-1].messages[1].reasoning == "Well, the sea"


async def test_thinking_may_be_left_out_of_the_answer(site):
    site.with_engine(family="hermes", thinking=True, pieces=("Well, ", "the sea", "</think>", "Wide."))
    answer = await ask(site, thinking={"type": "adaptive", "display": "omitted"})
    assert (answer.content[0].thinking, answer.content[1].text) == ("", "Wide.")


async def test_how_to_choose_tokens_reaches_the_engine_and_the_end_user_the_books(site):
    await ask(site, metadata={"user_id": "ada"}, extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7})
    params = site.engine.submits[0].params
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.9, 7)
    await site.settled()
    assert site.rows()[0].end_user == "ada"


async def test_what_has_no_effect_is_named_in_the_headers(site):
    marked = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    raw = await sdk(site).messages.with_raw_response.create(
        model=MODEL,
        max_tokens=20,
        messages=ASKED,
        system=marked,
        service_tier="auto",
        extra_headers={"anthropic-beta": "x"},
    )
    assert raw.headers.get_list("x-plugsky-ignored", split_commas=True) == [
        "anthropic-beta", "cache_control", "service_tier",
    ]  # fmt: skip
    assert raw.headers["x-plugsky-model"].startswith(f"{MODEL}@sha256:")


async def test_tokens_are_counted_for_nothing(site):
    counted = await sdk(site).messages.count_tokens(model=MODEL, messages=ASKED, system="Be brief.")
    assert counted.input_tokens == 6
    await site.settled()
    assert site.rows() == []
    assert site.engine.submits == []
    assert site.ledger.report().open_reservations == 0


FAILURES = {
    "a wrong key": ({"key": "x"}, {}, 401, "authentication_error"),
    "an unknown model": ({}, {"model": "claude"}, 404, "not_found_error"),
    "a model that cannot chat": ({}, {"model": "vector-1b"}, 501, "invalid_request_error"),
    "a prompt beyond the context": ({}, {"max_tokens": 500}, 400, "invalid_request_error"),
    "a body beyond the limit": ({}, {"system": "x" * 200_000}, 413, "request_too_large"),
    "a parameter nobody knows": ({}, {"extra_body": {"colour": 1}}, 400, "invalid_request_error"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("counts", [False, True])
async def test_a_failure_is_worded_as_the_vendor_does(site, case, counts):
    options, changes, status, kind = FAILURES[case]
    given = {"model": MODEL, "max_tokens": 20, "messages": ASKED, **changes}
    resource = sdk(site, **options).messages
    if counts:
        del given["max_tokens"]
        if case == "a prompt beyond the context":
            given["messages"] = [{"role": "user", "content": "word " * 200}]
    with pytest.raises(anthropic.APIStatusError) as refused:
        await (resource.count_tokens if counts else resource.create)(**given)
    error = refused.value
    assert (error.status_code, error.type) == (status, kind)
    assert set(error.body) == {"type", "error", "request_id"}
    assert error.body["request_id"] == error.request_id


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/messages", 405), ("GET", "/files", 404)])
async def test_what_is_not_there_is_told_in_the_vendors_words_too(site, method, path, status):
    found, _, data = await site.get(f"/anthropic/v1{path}", method)
    assert (found, json.loads(data)["type"]) == (status, "error")


async def test_an_engine_that_takes_no_more_is_overloaded_and_says_when_to_come_again(site):
    site.with_engine(refuse_submit=frames.Failed(0, "overloaded", "the queue is full"))
    with pytest.raises(anthropic.InternalServerError) as refused:
        await ask(site)
    assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")
    assert refused.value.response.headers["x-should-retry"] == "true"
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_a_failure_inside_a_stream_is_an_error_event(site):
    site.with_engine(die_after=2)
    with pytest.raises(anthropic.APIStatusError) as failed:
        await streamed(site)
    assert failed.value.type in {"api_error", "overloaded_error"}
    assert failed.value.body["request_id"] == failed.value.request_id
    await site.settled()
    assert site.ledger.report().open_reservations == 0


async def test_a_client_that_leaves_its_stream_is_billed_for_what_came(site):
    site.with_engine(hold_after=2)
    async with sdk(site).messages.stream(model=MODEL, max_tokens=20, messages=ASKED) as stream:
        async for text in stream.text_stream:
            if text == "sea ":
                break
    await site.settled()
    assert [(row.outcome, row.completion_tokens) for row in site.rows()] == [("cancelled", 2)]


@given(st.lists(st.integers(1, 60), max_size=8), st.booleans())
def test_the_parts_of_a_stream_are_those_of_the_whole_however_the_engine_cuts_them(cuts, thinking):
    text = "Well.</think>" * thinking + "I look." + "".join(CALLING)
    places = sorted({cut for cut in cuts if cut < len(text)} | {0, len(text)})
    asked = {"model": MODEL, "max_tokens": 20, "messages": ASKED, "tools": [MEASURE]}
    request = parse(json.dumps(asked).encode(), Limits())
    prepared = frames.Prepared(1, (), 9, family="hermes", thinking=thinking)
    said = Said(request.prompt, prepared)
    message = Message("j", request, prepared, said)
    items = [frames.StepItem(1, ids=(1,), text=text[start:end]) for start, end in pairwise(places)]
    events = []
    for item in (*items, frames.StepItem(1, final=frames.Finish("stop", frames.Usage(1, 1)))):
        events += message.feed(News(0, item, said.feed(item)))
    joined = {}
    for event in events:
        if event["type"] == "content_block_start":
            joined[event["index"]] = [event["content_block"]["type"], ""]
        elif event["type"] == "content_block_delta":
            (said,) = (value for key, value in event["delta"].items() if key != "type")
            joined[event["index"]][1] += said
    starts = [event["index"] for event in events if event["type"] == "content_block_start"]
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert starts == stops == list(range(2 + thinking))
    whole = message.whole(frames.Usage(1, 1))
    assert whole["stop_reason"] == "tool_use"
    kinds = [("thinking", "Well.")] * thinking + [("text", "I look."), ("tool_use", '{"what": "sea"}')]
    assert [tuple(each) for each in joined.values()] == kinds
    assert [block["type"] for block in whole["content"]] == [kind for kind, _ in kinds]
