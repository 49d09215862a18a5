"""What a chat's answer holds beside text, as the unmodified ``openai`` package sees it: choices, tools, reasoning."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from appliance.api_site import MODEL, ApiSite
from appliance.scripted_engine import IMAGE_TOKENS
from plugsky.core import frames
from plugsky.server.openai.choices import Choice
from plugsky.server.prompt import Prompt
from plugsky.server.said import Said

ASKED = [{"role": "user", "content": "how wide is it"}]
MEASURE = {"type": "function", "function": {"name": "measure", "parameters": {"type": "object"}}}
CALLING = ("<tool_call>\n", '{"name": "measure", ', '"arguments": {"what": "sea"}}', "\n</tool_call>")


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def streamed(site, **options):
    """The whole completion that the SDK's own helper makes of a stream, and its chunks."""
    async with site.client.chat.completions.stream(model=MODEL, messages=ASKED, **options) as stream:
        chunks = [event.chunk async for event in stream if event.type == "chunk"]
        return await stream.get_final_completion(), chunks


async def test_several_answers_come_with_their_numbers_and_their_prompt_is_billed_once(site):
    answer = await site.ask(n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"The sea is wide."}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 12)
    assert [submit.params.seed for submit in site.engine.submits] == [5, 6, 7]
    assert len({submit.job for submit in site.engine.submits}) == 3
    await site.settled()
    (row,) = site.rows()
    assert (row.prompt_tokens, row.completion_tokens, row.outcome) == (4, 12, "stop")
    assert sorted(site.engine.acknowledged) == sorted(submit.job for submit in site.engine.submits)


async def test_several_answers_stream_side_by_side(site):
    answer, chunks = await streamed(site, n=2, stream_options={"include_usage": True})
    assert [choice.message.content for choice in answer.choices] == ["The sea is wide."] * 2
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert chunks[-1].usage.completion_tokens == 8
    assert all(len(chunk.choices) == 1 for chunk in chunks[:-1])


async def test_one_answer_that_fails_ends_them_all_and_what_came_is_billed(site):
    site.with_engine(hold_after=2)
    streaming = await site.client.chat.completions.create(model=MODEL, messages=ASKED, n=2, stream=True)
    async for chunk in streaming:
        if chunk.choices and chunk.choices[0].delta.content == "sea ":
            break
    await streaming.close()
    await site.settled()
    (row,) = site.rows()
    assert row.outcome == "cancelled"
    assert site.engine.cancels == 2
    assert row.completion_tokens == 4


async def test_a_quota_covers_every_answer(site):
    site.with_engine(pieces=("word ",) * 40)
    answer = await site.ask(n=2, max_tokens=40)
    assert answer.usage.completion_tokens == 80
    await site.settled()
    assert site.ledger.report().open_reservations == 0


async def test_log_probabilities_come_with_pieces_and_bytes(site):
    answer = await site.ask(logprobs=True, top_logprobs=2)
    known = answer.choices[0].logprobs.content
    assert "".join(each.token for each in known) == "The sea is wide."
    assert bytes(known[0].bytes) == b"The "
    assert known[0].logprob == -0.5
    assert [rival.token for rival in known[0].top_logprobs] == ["rival", "rival"]
    assert (await site.ask()).choices[0].logprobs is None


async def test_log_probabilities_stream_with_the_text_they_are_of(site):
    _, chunks = await streamed(site, logprobs=True)
    told = [(c.choices[0].delta.content, c.choices[0].logprobs) for c in chunks if c.choices and c.choices[0].logprobs]
    assert [text for text, _ in told] == ["The ", "sea ", "is ", "wide."]
    assert all(known.content[0].token == text and known.content[0].top_logprobs == [] for text, known in told)


async def test_a_call_of_a_tool_is_told_as_one(site):
    site.with_engine(family="hermes", pieces=CALLING)
    answer = await site.ask(tools=[MEASURE])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "measure",
        {"what": "sea"},
    )
    assert call.id.startswith("call_")


async def test_a_call_streams_as_the_sdk_expects(site):
    site.with_engine(family="hermes", pieces=CALLING)
    answer, _ = await streamed(site, tools=[MEASURE], parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("measure", {"what": "sea"})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert site.engine.prepares[0].parallel_tool_calls is False


async def test_the_answer_of_a_tool_goes_back_to_the_model(site):
    site.with_engine(family="hermes", pieces=CALLING)
    first = await site.ask(tools=[MEASURE])
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "wide"}
    await site.ask(messages=[*ASKED, message.model_dump(exclude_none=True), result], tools=[MEASURE])
    *_, called, answered = site.engine.prepares[-1].messages
    assert called.tool_calls[0].name == "measure"
    assert answered.tool_call_id == called.tool_calls[0].id


async def test_a_call_cut_by_the_limit_is_no_call(site):
    site.with_engine(family="hermes", pieces=CALLING)
    answer = await site.ask(tools=[MEASURE], max_tokens=2)
    assert answer.choices[0].finish_reason == "length"


async def test_a_call_of_a_tool_that_was_not_offered_is_text(site):
    site.with_engine(family="hermes", pieces=CALLING)
    answer = await site.ask()
    assert answer.choices[0].message.content == "".join(CALLING)
    assert answer.choices[0].finish_reason == "stop"


async def test_tokens_of_images_are_counted_apart(site):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    site.with_engine(keeps_images=True)
    await site.client.chat.completions.create(
        model=MODEL, n=2, messages=[{"role": "user", "content": [image, image]}], max_tokens=2
    )
    await site.ask()
    seen, plain = site.rows()
    assert (seen.image_tokens, plain.image_tokens) == (2 * IMAGE_TOKENS, 0)
    assert seen.prompt_tokens >= seen.image_tokens
    assert site.ledger.report().lines[0].image_tokens == 2 * IMAGE_TOKENS
    told, untold = site.records("request.done")
    assert (told.fields["image_tokens"], "image_tokens" in untold.fields) == (2 * IMAGE_TOKENS, False)


async def test_reasoning_is_told_apart_and_counted(site):
    site.with_engine(family="hermes", thinking=True, pieces=("Well, ", "the sea", "</think>", "Wide."))
    answer = await site.ask(reasoning_effort="low")
    assert answer.choices[0].message.reasoning_content == "Well, the sea"
    assert answer.choices[0].message.content == "Wide."
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert site.engine.prepares[0].reasoning_effort == "low"
    (row,) = site.rows()
    assert (row.completion_tokens, row.reasoning_tokens) == (4, 3)
    assert site.ledger.report().lines[0].reasoning_tokens == 3
    assert "".join(c.choices[0].delta.reasoning_content for c in (await streamed(site))[1]
                   if c.choices and hasattr(c.choices[0].delta, "reasoning_content")) == "Well, the sea"  # fmt: skip


async def test_a_schema_of_the_sdks_own_making_is_answered_as_its_type(site):
    class Sea(BaseModel):
        width: int

    site.with_engine(pieces=('{"width"', ": 7}"))
    answer = await site.client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Sea)
    assert answer.choices[0].message.parsed == Sea(width=7)
    assert json.loads(site.engine.submits[0].params.grammar)["properties"]["width"]["type"] == "integer"


async def test_what_the_engine_refuses_to_compile_is_a_400(site):
    site.with_engine(refuse_prepare=frames.Failed(0, "schema_refused", "the schema nests too deep", "json_schema"))
    with pytest.raises(openai.BadRequestError) as refused:
        await site.ask(response_format={"type": "json_object"})
    assert refused.value.code == "invalid_json_schema"


@given(st.lists(st.integers(1, 60), max_size=8), st.booleans())
def test_a_choice_says_the_same_however_the_engine_cuts_it(cuts, thinking):
    text = "Well.</think>" * thinking + "".join(CALLING)
    places = sorted({cut for cut in cuts if cut < len(text)} | {0, len(text)})
    prompt = Prompt(tools=(frames.Tool("measure"),))
    said = Said(prompt, frames.Prepared(1, (), 9, family="hermes", thinking=thinking))
    choice = Choice(said, logprobs=False)
    deltas = []
    for start, end in pairwise(places):
        item = frames.StepItem(1, ids=(1,), text=text[start:end])
        deltas += choice.feed(item, said.feed(item))
    last = frames.StepItem(1, final=frames.Finish("stop", frames.Usage(1, 1)))
    deltas += choice.feed(last, said.feed(last))
    arguments = "".join(call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ()))
    assert json.loads(arguments) == {"what": "sea"}
    assert choice.message.shape()["tool_calls"][0]["function"]["arguments"] == arguments
    assert choice.message.shape().get("reasoning_content") == ("Well." if thinking else None)
    assert choice.finish_reason == "tool_calls"
