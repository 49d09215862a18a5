"""The whole way with nothing scripted: SDK, gateway, a supervised engine process, a real model, the books."""

import asyncio
import hashlib
import json
import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from openai import InternalServerError

from appliance.api_site import LIMITS, ApiSite
from plugsky.engine.life.supervisor import EngineSpec, EngineSupervisor
from plugsky.server.deps import ServedModel

PATIENT = replace(LIMITS, load_wait_s=120.0, request_timeout_s=240.0)


@pytest.mark.integration
async def test_a_real_model_answers_streams_is_cancelled_and_comes_back_after_a_crash(tmp_path, chat_model):
    digest = hashlib.sha256(chat_model.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), PATIENT) as site:
            site.gateway.models["smol"] = ServedModel("smol", digest, 2048)
            spec = EngineSpec("smol", chat_model, digest, "generate", 1024, 2)
            supervisor = EngineSupervisor(spec, site.paths.engine_socket("smol"), log=tmp_path / "engine.log")
            await supervisor.start()
            try:
                await walk(site, supervisor)
                await ask_for_forms(site)
                await stop_at_a_word(site)
                await complete_what_is_written(site)
            finally:
                await supervisor.stop()
            assert [row.outcome for row in site.rows()] == [
                "length", "length", "cancelled", "length", "length", "stop", "stop", "length", "stop",
                "length", "length",
            ]  # fmt: skip
            assert site.ledger.report().open_reservations == 0


async def walk(site, supervisor):
    """Ask, stream, hang up, crash, ask again."""
    ask = {"model": "smol", "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}
    create = site.client.with_options(timeout=240).chat.completions.create
    whole, chunks = await asyncio.gather(
        create(**ask, max_tokens=6),
        create(**ask, max_tokens=6, stream=True, stream_options={"include_usage": True}),
    )
    pieces = [chunk async for chunk in chunks]
    text = "".join(choice.delta.content or "" for chunk in pieces for choice in chunk.choices)
    assert whole.choices[0].message.content
    assert text
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens == 6

    running = await create(**ask, max_tokens=600, stream=True)
    await anext(aiter(running))
    await running.close()
    assert await site.gateway.flights.landed(60)

    running = aiter(await create(**ask, max_tokens=60, stream=True, stream_options={"include_usage": True}))
    for _ in range(3):
        await anext(running)
    os.kill((await supervisor.status()).pid, signal.SIGKILL)
    rest = [chunk async for chunk in running]
    assert rest[-1].usage.completion_tokens == 60
    assert rest[-2].choices[0].finish_reason == "length"
    assert (await create(**ask, max_tokens=2)).usage.completion_tokens == 2


async def ask_for_forms(site):
    """A schema, a tool that must be called, and several answers with log-probabilities: what a small model can do."""
    ask = {"model": "smol", "messages": [{"role": "user", "content": "How wide is the sea?"}], "temperature": 0}
    create = site.client.with_options(timeout=240).chat.completions.create
    schema = {"type": "object", "properties": {"wide": {"type": "boolean"}}, "required": ["wide"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "width", "schema": schema, "strict": True}}
    answer = await create(**ask, response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"wide"}

    tool = {"type": "function", "function": {"name": "measure", "parameters": schema}}
    answer = await create(**ask, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "measure"
    assert set(json.loads(call.function.arguments)) == {"wide"}

    answer = await create(**{**ask, "temperature": 1.5}, n=3, seed=1, max_tokens=8, logprobs=True, top_logprobs=2)
    assert len({choice.message.content for choice in answer.choices}) > 1
    for choice in answer.choices:
        assert len(choice.logprobs.content) == 8
        told = b"".join(bytes(each.bytes) for each in choice.logprobs.content)
        assert choice.message.content in told.decode(errors="replace")


async def stop_at_a_word(site):
    """The engine names the stop string that it met; Anthropic's dialect tells it."""
    ask = {"model": "smol", "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}
    body = json.dumps({**ask, "max_tokens": 60, "stop_sequences": ["no such words", " "]}).encode()
    status, _, data = await site.post(body, "/anthropic/v1/messages")
    answer = json.loads(data)
    assert (status, answer["stop_reason"], answer["stop_sequence"]) == (200, "stop_sequence", " ")
    assert " " not in answer["content"][0]["text"]


async def complete_what_is_written(site):
    """Token ids are the text that they say: told, scored and completed alike. A model without infill says so."""
    told = await site.post(json.dumps({"model": "smol", "prompt": "The sea is wide"}).encode(), "/tokenize")
    ids = json.loads(told[2])["tokens"]
    said = await site.post(json.dumps({"model": "smol", "tokens": ids}).encode(), "/detokenize")
    assert json.loads(said[2])["content"].endswith("The sea is wide")
    create = site.client.with_options(timeout=240).completions.create
    ask = {"model": "smol", "temperature": 0, "echo": True, "logprobs": 2, "max_tokens": 3}
    of_text, of_ids = [(await create(prompt=prompt, **ask)).choices[0] for prompt in ("The sea is wide", ids)]
    assert of_text.text == of_ids.text
    assert of_text.text.startswith("The sea is wide")
    assert of_text.logprobs.tokens == of_ids.logprobs.tokens
    scores = of_text.logprobs.token_logprobs
    assert scores[0] is None
    assert all(score < 0 for score in scores[1:])
    assert of_text.logprobs.token_logprobs[1:] == pytest.approx(of_ids.logprobs.token_logprobs[1:], abs=0.05)
    with pytest.raises(InternalServerError) as refused:
        await create(model="smol", prompt="The sea", suffix="wide", max_tokens=3)
    assert refused.value.status_code == 501
