"""Mistral's dialect as the unmodified ``mistralai`` package speaks it."""

import json
import tempfile
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the package's own, at its import
    from mistralai.client import Mistral, errors, models

from appliance.api_site import MODEL, ApiSite
from appliance.scripted_vectors import ScriptedVectors
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.mistral.fields import ChatFields, parse_chat, parse_embeddings, parse_fim
from plugsky.server.mistral.tables import CHAT, EMBEDDINGS, FIM

SAID = "The sea is wide."
ASKED = [{"role": "user", "content": "how wide is it"}]
TOOL = {"type": "function", "function": {"name": "measure", "parameters": {"type": "object"}}}
CALLING = ("<tool_call>\n", '{"name": "measure", ', '"arguments": {"unit": "m"}}', "\n</tool_call>")
LIMITS = Limits()


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            running.vectors = ScriptedVectors()
            await running.vectors.listen(running.paths.engine_socket("vector-1b"))
            yield running
            await running.vectors.close()


@pytest.fixture
async def client(site):
    async with Mistral(api_key=site.key, server_url=f"http://127.0.0.1:{site.port}/mistral") as asking:
        yield asking


async def streamed(stream):
    """The data of a stream's events."""
    return [event.data async for event in stream]


async def test_a_chat_comes_whole_and_is_billed(site, client):
    answer = await client.chat.complete_async(model=MODEL, messages=ASKED, random_seed=7, temperature=0.5)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (SAID, "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 4, 8)
    assert (site.engine.submits[0].params.seed, site.engine.submits[0].params.temperature) == (7, 0.5)
    await site.settled()
    assert [(row.prompt_tokens, row.completion_tokens) for row in site.rows()] == [(4, 4)]


async def test_a_stream_joined_is_the_whole_and_its_last_event_has_the_usage(client):
    chunks = await streamed(await client.chat.stream_async(model=MODEL, messages=ASKED))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == SAID
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.total_tokens == 8


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_of_a_tool_is_told_whole(site, client, stream):
    site.with_engine(family="hermes", pieces=CALLING)
    asked = {"model": MODEL, "messages": ASKED, "tools": [TOOL], "tool_choice": "any"}
    if stream:
        chunks = await streamed(await client.chat.stream_async(**asked))
        told = [chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]
        assert len(told) == 1
        (call,), reason = told[0].choices[0].delta.tool_calls, told[0].choices[0].finish_reason
    else:
        choice = (await client.chat.complete_async(**asked)).choices[0]
        (call,), reason = choice.message.tool_calls, choice.finish_reason
    assert (call.function.name, json.loads(call.function.arguments), reason) == ("measure", {"unit": "m"}, "tool_calls")
    assert site.engine.prepares[0].tool_choice == "required"


async def test_thinking_is_a_chunk_of_its_own(site, client):
    site.with_engine(family="hermes", thinking=True, pieces=("Well, ", "the sea", "</think>", "Wide."))
    answer = await client.chat.complete_async(model=MODEL, messages=ASKED, reasoning_effort="high")
    thought, text = answer.choices[0].message.content
    assert (thought.thinking[0].text, text.text) == ("Well, the sea", "Wide.")
    chunks = await streamed(await client.chat.stream_async(model=MODEL, messages=ASKED))
    parts = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(part[0].thinking[0].text for part in parts if isinstance(part, list)) == "Well, the sea"
    assert "".join(part for part in parts if isinstance(part, str)) == "Wide."


async def test_what_the_assistant_said_is_read_when_it_comes_back(site, client):
    call = models.ToolCall(id="c1", function=models.FunctionCall(name="measure", arguments={"unit": "m"}))
    thought = models.ThinkChunk(thinking=[models.TextChunk(text="hm")])
    messages = [
        models.UserMessage(content=[models.TextChunk(text="how wide")]),
        models.AssistantMessage(content=[thought, models.TextChunk(text="so")], tool_calls=[call]),
        models.ToolMessage(content="9 m", tool_call_id="c1", name="measure"),
    ]
    await client.chat.complete_async(model=MODEL, messages=messages)
    user, assistant, tool = site.engine.prepares[0].messages
    assert (user.content, assistant.reasoning) == ("how wide", "hm")
    assert (assistant.tool_calls[0].name, json.loads(assistant.tool_calls[0].arguments)) == ("measure", {"unit": "m"})
    assert (tool.tool_call_id, tool.content) == ("c1", "9 m")


async def test_a_text_is_filled_in_between_its_two_ends(site, client):
    answer = await client.fim.complete_async(model=MODEL, prompt="def f(", suffix="return x", max_tokens=3)
    assert answer.choices[0].message.content == "The sea is "
    assert answer.choices[0].finish_reason == "length"
    assert (site.engine.prepares[0].text, site.engine.prepares[0].suffix) == ("def f(", "return x")
    chunks = await streamed(await client.fim.stream_async(model=MODEL, prompt="def f(", suffix="return x"))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == SAID
    assert chunks[-1].usage.completion_tokens == 4


async def test_texts_become_vectors(site, client):
    answer = await client.embeddings.create_async(model="vector-1b", inputs=["one", "two words"])
    assert [len(each.embedding) for each in answer.data] == [4, 4]
    assert answer.usage.prompt_tokens == 3


async def test_models_are_listed_with_what_they_can(client):
    listed = {model.id: model for model in (await client.models.list_async()).data}
    assert listed[MODEL].capabilities.completion_chat
    assert not listed["vector-1b"].capabilities.completion_chat
    assert (await client.models.retrieve_async(model_id=MODEL)).max_context_length == 2048


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"model": "nobody"}, 404, "does not exist"),
        ({"model": "vector-1b"}, 501, "cannot chat"),
        ({"safe_prompt": True}, 400, "safe_prompt"),
        ({"min_tokens": 5}, 400, "min_tokens"),
        ({"temperature": 9.0}, 400, "temperature"),
        ({"random_seed": "x"}, 400, "random_seed"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, 400, "messages[0].prefix"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role"),
        ({"max_tokens": 500}, 400, "context"),
    ],
)
async def test_a_failure_is_one_flat_object(site, client, changes, status, told):
    body = json.dumps({"model": MODEL, "messages": ASKED, **changes}).encode()
    got, _, answer = await site.post(body, "/mistral/v1/chat/completions")
    shown = json.loads(answer)
    assert (got, shown["object"]) == (status, "error")
    assert told in shown["message"]
    assert set(shown) == {"object", "message", "type", "param", "code"}


async def test_the_package_raises_what_it_raises_at_home(site, client):
    with pytest.raises(errors.SDKError) as refused:
        await client.chat.complete_async(model="nobody", messages=ASKED)
    assert refused.value.status_code == 404
    async with Mistral(api_key="wrong", server_url=f"http://127.0.0.1:{site.port}/mistral") as stranger:
        with pytest.raises(errors.SDKError) as refused:
            await stranger.models.list_async()
    assert refused.value.status_code == 401


async def test_what_has_no_effect_is_reported(site):
    body = {"model": MODEL, "messages": ASKED, "metadata": {"a": 1}, "service_tier": "auto", "safe_prompt": False}
    _, headers, _ = await site.post(json.dumps(body).encode(), "/mistral/v1/chat/completions")
    assert headers["x-plugsky-ignored"] == "metadata, service_tier"


@pytest.mark.parametrize(
    ("tables", "kind"),
    [(CHAT, models.ChatCompletionRequest), (FIM, models.FIMCompletionRequest), (EMBEDDINGS, models.EmbeddingRequest)],
)
def test_every_parameter_of_the_package_is_in_exactly_one_table(tables, kind):
    groups = (tables.honoured, set(tables.ignored), set(tables.refused))
    assert set().union(*groups) == {field.alias or name for name, field in kind.model_fields.items()}
    assert sum(map(len, groups)) == len(kind.model_fields)


@pytest.mark.parametrize("read", [parse_chat, parse_fim, parse_embeddings])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    body=st.dictionaries(
        st.sampled_from(sorted(CHAT.honoured | FIM.honoured | EMBEDDINGS.honoured | set(CHAT.refused))),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=8,
        ),
    )
)
def test_any_json_object_is_read_or_refused_with_a_400(read, body):
    try:
        request = read(json.dumps({"model": "m", **body}).encode(), LIMITS)
    except PlugskyError as error:
        assert error.kind.value.status in (400, 413, 501)  # noqa: PT017 - both ends are right
    else:
        assert request.model


def test_a_chat_of_the_package_is_read_by_the_types_told_on_the_page():
    assert {field.name for field in msgspec.structs.fields(ChatFields)} <= CHAT.honoured
