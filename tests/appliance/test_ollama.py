"""Ollama's dialect as its unmodified client sees it."""

import base64
import json
import tempfile
from pathlib import Path

import msgspec
import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama import _types

from appliance.api_site import MODEL, ApiSite
from appliance.scripted_engine import DIGEST
from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.ollama.fields import (
    CHAT,
    GENERATE,
    OPTIONS,
    ChatFields,
    GenerateFields,
    OptionFields,
    parse_chat,
    parse_generate,
)

ASKED = [{"role": "user", "content": "how wide is it"}]
MEASURE = {"type": "function", "function": {"name": "measure", "description": "", "parameters": {"type": "object"}}}
CALLING = ("<tool_call>\n", '{"name": "measure", ', '"arguments": {"what": "sea"}}', "\n</tool_call>")
LIMITS = Limits()


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def client(site, mount="/ollama", key=None):
    headers = {"Authorization": f"Bearer {key or site.key}"}
    made = ollama.AsyncClient(host=f"http://127.0.0.1:{site.port}{mount}", headers=headers)
    site.clients.append(made)
    return made


@pytest.mark.parametrize("mount", ["", "/ollama"])
async def test_a_chat_comes_whole_with_its_counts(site, mount):
    answer = await client(site, mount).chat(MODEL, ASKED, options={"temperature": 0, "num_predict": 9, "seed": 3})
    assert (answer.message.role, answer.message.content, answer.done_reason) == (
        "assistant",
        "The sea is wide.",
        "stop",
    )
    assert (answer.prompt_eval_count, answer.eval_count, answer.done) == (4, 4, True)
    assert answer.total_duration >= answer.prompt_eval_duration + answer.eval_duration > 0
    submit = site.engine.submits[0]
    assert (submit.params.temperature, submit.params.seed, submit.max_tokens) == (0, 3, 9)


async def test_a_chat_streams_a_line_for_each_piece(site):
    lines = [line async for line in await client(site).chat(MODEL, ASKED, stream=True)]
    assert "".join(line.message.content for line in lines) == "The sea is wide."
    assert [line.done for line in lines] == [False] * 4 + [True]
    assert lines[-1].eval_count == 4


async def test_a_call_of_a_tool_is_told_whole(site):
    site.with_engine(family="hermes", pieces=CALLING)
    (call,) = (await client(site).chat(MODEL, ASKED, tools=[MEASURE])).message.tool_calls
    assert (call.function.name, call.function.arguments) == ("measure", {"what": "sea"})
    lines = [line async for line in await client(site).chat(MODEL, ASKED, tools=[MEASURE], stream=True)]
    (told,) = [line.message.tool_calls for line in lines if line.message.tool_calls]
    assert told[0].function.arguments == {"what": "sea"}
    history = [*ASKED, {"role": "assistant", "tool_calls": [call.model_dump()]}]
    history.append({"role": "tool", "tool_name": "measure", "content": "wide"})
    await client(site).chat(MODEL, history, tools=[MEASURE])
    *_, called, answered = site.engine.prepares[-1].messages
    assert json.loads(called.tool_calls[0].arguments) == {"what": "sea"}
    assert (answered.role, answered.name) == ("tool", "measure")


async def test_thinking_is_told_apart(site):
    site.with_engine(family="hermes", thinking=True, pieces=("Well.", "</think>", "Wide."))
    answer = await client(site).chat(MODEL, ASKED, think=True)
    assert (answer.message.thinking, answer.message.content) == ("Well.", "Wide.")
    assert site.engine.prepares[0].thinking is True


async def test_a_prompt_is_completed_with_its_system_text_or_raw(site):
    answer = await client(site).generate(MODEL, "how wide is it", system="be brief")
    assert (answer.response, answer.done_reason) == ("The sea is wide.", "stop")
    assert [message.role for message in site.engine.prepares[0].messages] == ["system", "user"]


async def test_an_answer_cut_by_its_limit_says_so(site):
    assert (await client(site).chat(MODEL, ASKED, options={"num_predict": 2})).done_reason == "length"


async def test_a_schema_reaches_the_engine(site):
    schema = {"type": "object", "properties": {"width": {"type": "integer"}}}
    await client(site).chat(MODEL, ASKED, format=schema)
    assert json.loads(site.engine.submits[0].params.grammar) == schema


async def test_models_are_listed_shown_and_told_when_loaded(site):
    asking = client(site)
    assert [model.model for model in (await asking.list()).models] == [MODEL, "other-2b", "vector-1b"]
    assert (await asking.ps()).models == []
    await asking.chat(MODEL, ASKED)
    (loaded,) = (await asking.ps()).models
    assert (loaded.model, loaded.digest, loaded.context_length) == (MODEL, DIGEST, 128)
    shown = await asking.show("vector-1b")
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo["context_length"] == 512


@pytest.mark.parametrize(("name", "value"), [("verbose", True), ("adapter", "x")])
async def test_what_cannot_be_shown_of_a_model_is_refused_by_name(site, name, value):
    status, _, told = await site.post(json.dumps({"model": "vector-1b", name: value}).encode(), "/api/show")
    assert (status, name in told.decode()) == (400, True)


async def test_what_concerns_the_machine_is_reported(site):
    body = {
        "model": MODEL,
        "messages": ASKED,
        "options": {"num_ctx": 9, "num_gpu": 1},
        "keep_alive": "5m",
        "stream": False,
    }
    _, headers, _ = await site.post(json.dumps(body).encode(), "/api/chat")
    assert headers["x-plugsky-ignored"] == "keep_alive, options.num_ctx, options.num_gpu"


@pytest.mark.parametrize(
    ("asked", "status"),
    [({"model": "nobody"}, 404), ({"options": {"mirostat": 1}}, 400), ({"options": {"warmth": 1}}, 400),
     ({"messages": []}, 400), ({"format": 7}, 400)],
)  # fmt: skip
async def test_failures_have_ollamas_body(site, asked, status):
    with pytest.raises(ollama.ResponseError) as refused:
        await client(site).chat(**{"model": MODEL, "messages": ASKED, **asked}) if "format" not in asked else (
            await wrong_format(site)
        )
    assert refused.value.status_code == status
    assert refused.value.error


async def wrong_format(site):
    """What the client's own types would not let out."""
    body = json.dumps({"model": MODEL, "messages": ASKED, "format": 7}).encode()
    status, _, answer = await site.post(body, "/api/chat")
    raise ollama.ResponseError(json.loads(answer)["error"], status)


async def test_a_wrong_key_is_refused(site):
    with pytest.raises(ollama.ResponseError) as refused:
        await client(site, key="psk_wrong").list()
    assert refused.value.status_code == 401


async def test_a_failure_in_a_stream_is_its_last_line(site):
    site.with_engine(die_after=2, cut_only=True, deaths=9)
    with pytest.raises(ollama.ResponseError):
        async for _ in await client(site).chat(MODEL, ASKED, stream=True):
            pass


def test_every_parameter_of_the_client_is_in_exactly_one_table():
    for tables, sent, fields in (
        (CHAT, _types.ChatRequest, ChatFields),
        (GENERATE, _types.GenerateRequest, GenerateFields),
        (OPTIONS, _types.Options, OptionFields),
    ):
        sorted_ = [set(tables.honoured), set(tables.ignored), set(tables.refused)]
        assert sum(map(len, sorted_)) == len(set().union(*sorted_))
        assert set().union(*sorted_) == set(sent.model_fields)
        read = {field.name for field in msgspec.structs.fields(fields)}
        assert read == tables.honoured | tables.extensions


def test_images_keep_their_place_before_the_text():
    image = base64.b64encode(b"png").decode()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "what", "images": [image]}]}
    prompt = parse_chat(json.dumps(body).encode(), LIMITS).prompt
    assert (prompt.messages[0].content, prompt.images) == ((frames.ImagePart(0), "what"), (b"png",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted({*CHAT.honoured, *GENERATE.honoured, *GENERATE.refused})) | st.text(max_size=12)


@given(st.sampled_from([parse_chat, parse_generate]), st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_object_is_read_or_refused_with_a_400(read, fields):
    body = {"model": MODEL, "messages": ASKED} if read is parse_chat else {"model": MODEL, "prompt": "hi"}
    try:
        read(json.dumps(body | fields).encode("utf-8", "surrogatepass"), LIMITS)
    except PlugskyError as error:
        assert error.kind.value.status == 400  # noqa: PT017 - most bodies are refused, some are read
