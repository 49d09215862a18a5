"""Chat completions as the unmodified ``openai`` package sees them."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from appliance.api_site import LIMITS, MODEL, ApiSite, until
from appliance.scripted_engine import DIGEST
from plugsky.core import frames


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def streamed(site, **options):
    given = {"model": MODEL, "messages": [{"role": "user", "content": "how wide is it"}], "stream": True, **options}
    return [chunk async for chunk in await site.client.chat.completions.create(**given)]


async def test_an_answer_comes_whole_with_its_usage(site):
    site.with_engine(cached=3)
    answer = await site.ask()
    assert answer.choices[0].message.content == "The sea is wide."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("fp_")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 4, 8)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_a_stream_gives_role_then_text_then_the_reason(site):
    chunks = await streamed(site)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The sea is wide."
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_stream_carries_usage_only_when_asked(site):
    chunks = await streamed(site, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 8
    assert all(chunk.choices for chunk in chunks[:-1])


async def test_the_sdks_stream_helper_and_the_synchronous_client_work(site):
    def talk():
        with openai.OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key=site.key) as client:
            messages = [{"role": "user", "content": "hi"}]
            with client.chat.completions.stream(model=MODEL, messages=messages) as stream:
                return stream.get_final_completion()

    answer = await asyncio.to_thread(talk)
    assert answer.choices[0].message.content == "The sea is wide."


async def test_the_api_answers_without_the_v1_prefix(site):
    client = site.sdk(site.key, prefix="")
    answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert answer.usage.completion_tokens == 4


async def test_headers_name_the_request_the_model_and_what_was_ignored(site):
    raw = await site.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "hi", "name": "ann"}], metadata={"a": "b"}, prediction=None
    )
    assert raw.headers["x-plugsky-model"] == f"{MODEL}@sha256:{DIGEST}"
    assert raw.headers["x-plugsky-ignored"] == "messages.name, metadata"
    assert raw.headers["x-request-id"] == site.rows()[0].job
    assert raw.parse().id == f"chatcmpl-{raw.headers['x-request-id']}"


async def test_parameters_reach_the_engine_as_they_were_sent(site):
    await site.ask(
        temperature=0.5, top_p=0.9, seed=2**32 + 7, stop=["a", "b"], presence_penalty=1, frequency_penalty=-1,
        logit_bias={"5": -100}, max_tokens=9, max_completion_tokens=3, extra_body={"top_k": 40, "min_p": 0.1},
    )  # fmt: skip
    submit = site.engine.submits[0]
    assert submit.params == frames.Params(
        temperature=0.5, top_p=0.9, seed=7, stop=("a", "b"), presence_penalty=1.0, frequency_penalty=-1.0,
        logit_bias={5: -100.0}, top_k=40, min_p=0.1,
    )  # fmt: skip
    assert submit.max_tokens == 3
    assert site.engine.prepares[0].max_tokens == 3


async def test_content_parts_developer_and_echoed_answers_are_understood(site):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho", "refusal": None, "tool_calls": None, "annotations": [], "audio": None},
        {"role": "user", "content": "again"},
    ]
    await site.ask(messages=messages)
    assert [(message.role, message.content) for message in site.engine.prepares[0].messages] == [
        ("system", "be\nbrief"), ("user", "hi"), ("assistant", "ho"), ("user", "again"),
    ]  # fmt: skip


async def test_an_answer_cut_by_its_limit_says_so(site):
    answer = await site.ask(max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


async def test_models_are_listed_with_what_agents_look_for(site):
    await site.ask()
    listed = [model async for model in await site.client.models.list()]
    assert [model.id for model in listed] == [MODEL, "other-2b", "vector-1b"]
    poet = await site.client.models.retrieve(MODEL)
    assert (poet.max_model_len, poet.context_length, poet.digest) == (128, 128, f"sha256:{DIGEST}")
    assert listed[1].context_length == 512


async def test_a_scoped_key_sees_and_uses_its_models_only(site):
    client = site.sdk(site.keys.create("acme", models=("other-2b",)).secret)
    assert [model.id async for model in await client.models.list()] == ["other-2b"]
    with pytest.raises(openai.PermissionDeniedError):
        await client.models.retrieve(MODEL)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert refused.value.param == "model"
    assert site.engine.prepares == []


async def test_a_silent_stream_is_kept_alive_with_comments(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), replace(LIMITS, keepalive_s=0.05)) as site:
            site.with_engine(hold_after=0)
            body = b'{"model":"poet-1b","stream":true,"messages":[{"role":"user","content":"hi"}]}'
            posting = asyncio.create_task(site.post(body))
            await until(lambda: site.engine.submits)
            await asyncio.sleep(0.5)
            site.engine.release.set()
            status, headers, data = await posting
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-accel-buffering"] == "no"
    assert b": keep-alive\n\n" in data
    assert b"data: [DONE]\n\n" in data
