"""Vectors as the unmodified ``ollama`` package asks for them."""

import json
import tempfile
from pathlib import Path

import ollama
import pytest
from ollama import _types

from appliance.api_site import MODEL, ApiSite
from appliance.scripted_vectors import ScriptedVectors
from plugsky.server.ollama.embedding import EMBED, EMBEDDINGS


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            running.vectors = ScriptedVectors()
            await running.vectors.listen(running.paths.engine_socket("vector-1b"))
            yield running
            await running.vectors.close()


def client(site):
    headers = {"Authorization": f"Bearer {site.key}"}
    asking = ollama.AsyncClient(f"http://127.0.0.1:{site.port}/ollama", headers=headers)
    site.clients.append(asking)
    return asking


async def test_texts_become_vectors_of_length_one_in_their_order(site):
    answer = await client(site).embed("vector-1b", ["one", "two words here"])
    assert len(answer.embeddings) == 2
    assert all(abs(sum(number * number for number in vector) - 1) < 1e-5 for vector in answer.embeddings)
    assert answer.prompt_eval_count == 4
    assert (await client(site).embed("vector-1b", "one")).embeddings == [answer.embeddings[0]]
    await site.settled()
    assert [(row.prompt_tokens, row.outcome) for row in site.rows()] == [(4, "stop"), (1, "stop")]


async def test_the_older_endpoint_makes_one_vector(site):
    old = await client(site).embeddings("vector-1b", "one")
    assert list(old.embedding) == list((await client(site).embed("vector-1b", "one")).embeddings[0])


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"input": ""}, 400, "empty"),
        ({"input": []}, 400, "1 to 2048"),
        ({"input": ["a", ""]}, 400, "input[1]"),
        ({"input": ["a"] * 2049}, 400, "2049 inputs"),
        ({"input": 5}, 400, "input"),
        ({"input": "a", "truncate": True}, 400, "never cut"),
        ({"input": "a", "dimensions": 2}, 400, "one length"),
        ({"input": "a", "nonsense": 1}, 400, "nonsense"),
        ({"input": "a", "options": {"mirostat": 2}}, 400, "mirostat"),
        ({"input": ["a", "word " * 200]}, 400, "context"),
        ({"input": "a", "model": MODEL}, 501, "cannot embed"),
        ({"input": "a", "model": "nobody"}, 404, "does not exist"),
    ],
)
async def test_what_cannot_be_is_refused_in_ollamas_words(site, fields, status, told):
    got, _, body = await site.post(json.dumps({"model": "vector-1b", **fields}).encode(), "/api/embed")
    assert (got, list(json.loads(body))) == (status, ["error"])
    assert told in json.loads(body)["error"]


async def test_options_that_draw_tokens_are_reported(site):
    body = {"model": "vector-1b", "input": "a", "options": {"temperature": 0, "num_ctx": 5}, "truncate": False}
    _, headers, _ = await site.post(json.dumps(body).encode(), "/api/embed")
    assert headers["x-plugsky-ignored"] == "options.num_ctx, options.temperature"


@pytest.mark.parametrize(("tables", "kind"), [(EMBED, _types.EmbedRequest), (EMBEDDINGS, _types.EmbeddingsRequest)])
def test_every_parameter_of_the_client_is_in_exactly_one_table(tables, kind):
    groups = (tables.honoured, set(tables.ignored), set(tables.refused))
    assert set().union(*groups) == set(kind.model_fields)
    assert sum(map(len, groups)) == len(kind.model_fields)
