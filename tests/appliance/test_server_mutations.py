"""Whatever stands in whatever place of a request, each dialect answers with an error of its own, never a failure."""

import asyncio
import itertools
import json
import random
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import MODEL, ApiSite

SAMPLE = 40
"""How many mutations of each endpoint's body are sent; which ones is drawn by the endpoint's name."""
VECTORS = "vector-1b"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
PLAIN = [{"role": "user", "content": "hi"}]
SAMPLING = {"temperature": 0.5, "top_p": 0.9}
DICTIONARY = {"source_lang": "en", "target_lang": "de", "entries": "a\tb", "entries_format": "tsv"}
TEXT = [{"type": "text", "data": "hi you"}]
BODIES = {
    "/v1/chat/completions": {"model": MODEL, "messages": CHAT, "tools": [TOOL], "tool_choice": "auto", "n": 1,
        "max_tokens": 5, "stop": ["x"], "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2, "seed": 1,
        "user": "u", "response_format": {"type": "text"}, "metadata": {"a": "b"}, "store": False, **SAMPLING},
    "/v1/completions": {"model": MODEL, "prompt": "hi", "max_tokens": 4, "echo": False, "suffix": None, "best_of": 1,
        "n": 1, "logprobs": 2, "stop": "x", "seed": 1, "user": "u"},
    "/v1/responses": {"model": MODEL, "input": PLAIN, "instructions": "x", "max_output_tokens": 5, "store": False,
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}], "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"}, "metadata": {}, **SAMPLING},
    "/v1/embeddings": {"model": VECTORS, "input": ["a", "b"], "encoding_format": "float", "dimensions": 8, "user": "x"},
    "/v1/rerank": {"model": VECTORS, "query": "q", "documents": ["a", "b"], "top_n": 1},
    "/v1/batches": {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"a": "b"}},
    "/tokenize": {"model": MODEL, "content": "hi", "add_special": True},
    "/detokenize": {"model": MODEL, "tokens": [1, 2]},
    "/apply-template": {"model": MODEL, "messages": CHAT},
    "/v1/messages": {"model": MODEL, "max_tokens": 5, "messages": CHAT[1:], "system": "s", "stop_sequences": ["x"],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}], "tool_choice": {"type": "auto"},
        "metadata": {"user_id": "a"}, "thinking": {"type": "disabled"}, "top_k": 4, **SAMPLING},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": PLAIN, "system": "s"},
    "/mistral/v1/chat/completions": {"model": MODEL, "messages": CHAT, "max_tokens": 4, "safe_prompt": False,
        "random_seed": 1, "response_format": {"type": "text"}, "tools": [TOOL], "tool_choice": "auto", **SAMPLING},
    "/mistral/v1/fim/completions": {"model": MODEL, "prompt": "a", "suffix": "b", "max_tokens": 3},
    "/mistral/v1/embeddings": {"model": VECTORS, "input": ["a"]},
    "/v2/translate": {"text": ["hello <b>x</b>"], "target_lang": "DE", "source_lang": "EN", "tag_handling": "xml",
        "formality": "default", "context": "c", "split_sentences": "1", "ignore_tags": ["x"], "glossary_id": None},
    "/v2/glossaries": {"name": "g", **DICTIONARY},
    "/v3/glossaries": {"name": "g", "dictionaries": [DICTIONARY]},
    "/aleph-alpha/complete": {"model": MODEL, "prompt": TEXT, "maximum_tokens": 4, "n": 1, "best_of": 1, "log_probs": 1,
        "stop_sequences": ["x"], "logit_bias": {"1": 1.0}, "temperature": 0.1},
    "/aleph-alpha/embed": {"model": VECTORS, "prompt": TEXT, "layers": [-1], "tokens": False, "pooling": ["mean"]},
    "/aleph-alpha/semantic_embed": {"model": VECTORS, "prompt": "hi", "representation": "symmetric"},
    "/aleph-alpha/evaluate": {"model": MODEL, "prompt": "hi", "completion_expected": " you"},
    "/aleph-alpha/explain": {"model": MODEL, "prompt": TEXT, "target": "you", "control_factor": 0.1,
        "prompt_granularity": {"type": "word"}},
    "/aleph-alpha/tokenize": {"model": MODEL, "prompt": "hi", "tokens": True, "token_ids": True},
    "/aleph-alpha/detokenize": {"model": MODEL, "token_ids": [1]},
    "/api/chat": {"model": MODEL, "messages": PLAIN, "stream": False, "format": "json", "keep_alive": "5m",
        "options": {"num_predict": 3, "temperature": 0.1, "stop": ["a"]}, "tools": [TOOL], "think": False},
    "/api/generate": {"model": MODEL, "prompt": "hi", "system": "s", "stream": False, "options": {"num_predict": 3},
        "raw": False, "images": [], "format": SCHEMA},
    "/api/embed": {"model": VECTORS, "input": ["a"], "dimensions": 4, "options": {}},
    "/api/show": {"model": MODEL, "verbose": False},
    f"/azure/openai/deployments/{MODEL}/chat/completions?api-version=2024-10-21": {"messages": CHAT, "max_tokens": 3},
}  # fmt: skip
RAW = {"deep": "[" * 3000 + "]" * 3000, "not a number": "NaN", "beyond floats": "1e999", "9": "9" * 5000}
"""What :func:`json.dumps` cannot write, by the string that stands for it."""
STRANGE = [
    None, True, False, 0, -1, 10**9, 10**30, -(10**30), 1e308, 1.5, "", "x", "\0", "\ud800", "a" * 20_000, [], [None],
    [[[1]]], {}, {"type": "x"}, {"": None}, {"type": None}, [{}], [1, "a", None], ["a"] * 10_000, "{{7*7}}{% for %}",
    "file:///etc/passwd", "data:image/png;base64,AAAA", {"$ref": "#"}, {"properties": {"a": {"$ref": "#"}}},
    {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"items": {"pattern": "(a+)+$"}}}},
    {"type": "image_url", "image_url": {"url": "http://x/"}}, *RAW,
]  # fmt: skip


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def places(value, path=()):
    """The path of each place in ``value``, its own among them."""
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield from places(member, (*path, name))


def put(value, path, strange):
    if not path:
        return strange
    changed = value.copy()
    changed[path[0]] = put(value[path[0]], path[1:], strange)
    return changed


def written(body):
    text = json.dumps(body)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text.encode()


@pytest.mark.parametrize("endpoint", BODIES)
async def test_nothing_in_any_place_makes_an_endpoint_fail(site, endpoint):
    body = BODIES[endpoint]
    drawn = random.Random(endpoint).sample(list(itertools.product(places(body), STRANGE)), SAMPLE)  # noqa: S311
    drawn += [((), body | {"a name that none knows": 1})]
    sent = [written(put(body, *one)) for one in drawn]
    headers = ("Content-Type: application/json",)
    replies = await asyncio.gather(*(site.post(one, endpoint, headers) for one in sent))
    for one, (status, _, told) in zip(sent, replies, strict=True):
        assert status not in (500, 502), one[:300]
        assert status != 503 or b"did not come up" in told, "only the model that has no engine here is not ready"
        assert b'"detail"' not in told
        assert b"Traceback" not in told
        assert status < 300 or isinstance(json.loads(told), dict)
    assert replies[-1][0] == 400, "a name that none knows is refused"
