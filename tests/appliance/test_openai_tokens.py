"""What a model reads, told without running it: tokens of a text and of a chat, and texts of tokens."""

import json
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import MODEL, ApiSite

CHAT = [{"role": "user", "content": "how wide is it"}]


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def ask(site, path, **fields):
    """The answer to one post, and its status."""
    status, _, body = await site.post(json.dumps({"model": MODEL, **fields}).encode(), path)
    return status, json.loads(body)


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_text_is_told_as_its_tokens_and_costs_nothing(site, prefix):
    status, answer = await ask(site, f"{prefix}/tokenize", content="how wide is")
    assert status == 200
    assert (len(answer["tokens"]), answer["count"], answer["max_model_len"]) == (3, 3, 2048)
    await site.settled()
    assert not site.rows()
    assert not site.engine.submits


@pytest.mark.parametrize(
    ("fields", "framed"),
    [
        ({"content": "a"}, False),
        ({"content": "a", "add_special": True}, True),
        ({"prompt": "a"}, True),
        ({"prompt": "a", "add_special_tokens": False}, False),
    ],
)
async def test_a_text_is_framed_as_the_server_does_that_named_the_field(site, fields, framed):
    await ask(site, "/tokenize", **fields)
    assert site.engine.prepares[0].framed is framed


async def test_what_each_token_says_is_told_in_either_server_s_way(site):
    _, answer = await ask(site, "/tokenize", content="how wide", with_pieces=True)
    assert [each["piece"] for each in answer["tokens"]] == ["how", " wide"]
    _, answer = await ask(site, "/tokenize", prompt="how wide", return_token_strs=True)
    assert answer["token_strs"] == ["how", " wide"]


async def test_a_chat_is_tokenised_as_its_template_renders_it(site):
    status, answer = await ask(site, "/tokenize", messages=CHAT)
    assert (status, answer["count"]) == (200, 4)
    assert site.engine.prepares[0].messages[0].content == CHAT[0]["content"]


async def test_token_ids_become_the_text_that_they_say(site):
    status, answer = await ask(site, "/detokenize", tokens=[1, 22])
    assert (status, answer) == (200, {"content": "<1><22>", "prompt": "<1><22>"})


async def test_a_chat_is_shown_as_the_model_reads_it(site):
    status, answer = await ask(site, "/apply-template", messages=CHAT, add_generation_prompt=True)
    assert (status, answer) == (200, {"prompt": CHAT[0]["content"]})


@pytest.mark.parametrize(
    ("path", "fields", "status", "place"),
    [
        ("/tokenize", {}, 400, "content"),
        ("/tokenize", {"content": ""}, 400, "content"),
        ("/tokenize", {"content": "a", "prompt": "b"}, 400, "prompt"),
        ("/tokenize", {"content": "a", "tools": []}, 400, "tools"),
        ("/tokenize", {"content": "a", "nonsense": 1}, 400, "nonsense"),
        ("/tokenize", {"content": 5}, 400, "content"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/tokenize", {"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": []}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [2**40]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens[0]"),
        ("/apply-template", {"content": "a"}, 400, "content"),
        ("/tokenize", {"model": "nobody", "content": "a"}, 404, "model"),
    ],
)
async def test_what_cannot_be_told_is_refused_with_its_place(site, path, fields, status, place):
    got, answer = await ask(site, path, **fields)
    assert (got, answer["error"]["param"]) == (status, place), answer


async def test_a_stranger_is_told_nothing(site):
    request = b"POST /tokenize HTTP/1.1\r\nHost: site\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert b" 401 " in (await site.raw(request)).split(b"\r\n")[0]
