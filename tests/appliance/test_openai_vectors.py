"""Vectors and scores as clients see them: the unmodified ``openai`` package, and plain HTTP for rerank."""

import asyncio
import base64
import json
import struct
import tempfile
import typing
from pathlib import Path

import msgspec
import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import embedding_create_params as sdk

from appliance.api_site import MODEL, ApiSite, until
from appliance.scripted_vectors import RERANK_DIGEST, ScriptedVectors, vector_of
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.computing import SIDE_BY_SIDE
from plugsky.server.deps import ServedModel
from plugsky.server.openai import embedding_fields, rerank
from plugsky.server.openai.embeddings import cut

LIMITS = Limits()
RERANKED = {"model": "ranker-1b", "query": "wide sea", "documents": ["a hill", {"text": "the wide sea"}, "a sea"]}


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            models = running.gateway.models
            models["ranker-1b"] = ServedModel("ranker-1b", RERANK_DIGEST, 512, mode="rerank")
            models["cut-1b"] = ServedModel("cut-1b", "ef" * 32, 512, mode="embed", dimensions=(3, 4))
            running.vectors, running.scores = ScriptedVectors(), ScriptedVectors(scores=True)
            engines = {"vector-1b": running.vectors, "cut-1b": ScriptedVectors(), "ranker-1b": running.scores}
            for model, engine in engines.items():
                await engine.listen(running.paths.engine_socket(model))
            yield running
            for engine in engines.values():
                await engine.close()


async def embed(site, given="the sea", **options):
    """What the SDK makes of one request for vectors."""
    return await site.client.embeddings.create(**{"model": "vector-1b", "input": given, **options})


async def reranked(site, path="/v1/rerank", **changes):
    """Status and body of one request for an order."""
    status, _, body = await site.post(json.dumps({**RERANKED, **changes}).encode(), path)
    return status, json.loads(body)


async def test_vectors_come_in_the_order_of_their_texts_and_are_one_line_in_the_books(site):
    answer = await embed(site, ["the sea", "a", "four words are here"])
    assert [one.index for one in answer.data] == [0, 1, 2]
    wanted = [struct.unpack("<4f", vector_of(size)) for size in (3, 1, 4)]
    assert [one.embedding for one in answer.data] == [pytest.approx(vector) for vector in wanted]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)
    (row,) = site.rows()
    assert (row.prompt_tokens, row.completion_tokens, row.outcome) == (7, 0, "stop")
    assert row.engine_us == 30
    assert sorted(site.vectors.acknowledged) == sorted(submit.job for submit in site.vectors.submits)
    assert site.ledger.report().open_reservations == 0


async def test_numbers_and_base64_are_the_same_vector(site):
    decoded = (await embed(site)).data[0].embedding
    plain = (await embed(site, encoding_format="float")).data[0].embedding
    raw = (await embed(site, encoding_format="base64")).data[0].embedding
    assert isinstance(raw, str)
    assert np.frombuffer(base64.b64decode(raw), "<f4").tolist() == plain == decoded


@pytest.mark.parametrize(
    ("given", "tokens"), [([5, 6, 7], [(5, 6, 7)]), ([[5, 6], [7]], [(5, 6), (7,)]), (["a", [9]], [(1,), (9,)])]
)
async def test_token_ids_are_taken_as_they_are(site, given, tokens):
    answer = await embed(site, given)
    assert len(answer.data) == len(tokens)
    assert sorted(submit.tokens for submit in site.vectors.submits) == sorted(tokens)


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_prefix_is_not_needed(site, prefix):
    client = site.sdk(site.key, prefix=prefix)
    assert (await client.embeddings.create(model="vector-1b", input="x")).model == "vector-1b"
    assert (await reranked(site, f"{prefix}/rerank"))[0] == 200


async def test_many_inputs_run_side_by_side_and_within_bounds(site):
    answer = await embed(site, ["word"] * 300)
    assert len(answer.data) == 300
    assert 1 < site.vectors.most <= SIDE_BY_SIDE


async def test_a_client_that_hangs_up_cancels_every_input_and_pays_for_what_was_computed(site):
    site.vectors.script.hold_after = 10
    asking = asyncio.create_task(embed(site, ["two words"] * 100))
    await until(lambda: len(site.vectors.submits) == 10 + SIDE_BY_SIDE)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await site.settled()
    (row,) = site.rows()
    assert (row.outcome, row.prompt_tokens) == ("cancelled", 20)
    await until(lambda: site.vectors.cancels == SIDE_BY_SIDE)
    assert len(site.vectors.submits) == 10 + SIDE_BY_SIDE


async def test_an_input_that_fails_ends_the_request_and_is_settled_once(site):
    site.vectors.guilty = 6
    with pytest.raises(openai.InternalServerError):
        await embed(site, ["a", "guilty text", "b"])
    await site.settled()
    (row,) = site.rows()
    assert row.outcome == "internal"
    assert site.ledger.report().open_reservations == 0


async def test_an_input_that_is_too_long_is_named_and_costs_nothing(site):
    with pytest.raises(openai.BadRequestError) as refused:
        await embed(site, ["a", "word " * 200])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input[1]")
    assert not site.rows()
    assert not site.vectors.submits


async def test_dimensions_are_cut_only_where_the_model_was_trained_for_it(site):
    (one,) = (await embed(site, model="cut-1b", dimensions=3)).data
    assert one.embedding == pytest.approx([3 / 34**0.5, 3 / 34**0.5, 4 / 34**0.5])
    for model, dimensions in (("cut-1b", 2), ("vector-1b", 3)):
        with pytest.raises(openai.BadRequestError) as refused:
            await embed(site, model=model, dimensions=dimensions)
        assert refused.value.param == "dimensions"
    assert len(site.rows()) == 1


def test_a_vector_that_is_shorter_than_its_catalogue_says_is_an_error():
    with pytest.raises(PlugskyError, match="cannot be cut"):
        cut(vector_of(1), 5)


async def test_a_model_of_another_mode_is_501_and_told_what_it_can(site):
    for model, can in ((MODEL, "it can chat"), ("ranker-1b", "it can rerank documents")):
        with pytest.raises(openai.InternalServerError, match=can) as refused:
            await embed(site, model=model)
        assert (refused.value.status_code, refused.value.param) == (501, "model")
    status, body = await reranked(site, model="vector-1b")
    assert (status, body["error"]["code"]) == (501, "not_supported")


async def test_the_end_user_of_vectors_is_in_the_books(site):
    await embed(site, user="bob")
    await reranked(site, user="eve")
    assert [row.end_user for row in site.rows()] == ["bob", "eve"]


async def test_azures_path_names_the_model_of_vectors(site):
    path = "/azure/openai/deployments/vector-1b/embeddings?api-version=2024-10-21"
    status, _, body = await site.post(b'{"input": "the sea"}', path)
    assert (status, json.loads(body)["model"]) == (200, "vector-1b")


async def test_documents_come_in_the_order_of_their_relevance(site):
    status, body = await reranked(site)
    assert status == 200
    assert [(one["index"], one["relevance_score"]) for one in body["results"]] == [(1, 2.0), (2, 1.0), (0, 0.0)]
    assert all("document" not in one for one in body["results"])
    (row,) = site.rows()
    assert body["usage"] == {"prompt_tokens": row.prompt_tokens, "total_tokens": row.prompt_tokens}
    assert (row.prompt_tokens, row.outcome) == (16, "stop")


async def test_the_best_documents_are_returned_where_they_are_wanted(site):
    _, body = await reranked(site, top_n=1, return_documents=True)
    assert body["results"] == [{"index": 1, "relevance_score": 2.0, "document": {"text": "the wide sea"}}]
    assert len(site.scores.submits) == 3
    assert len((await reranked(site, top_n=9))[1]["results"]) == 3


async def test_documents_of_equal_worth_keep_their_order(site):
    _, body = await reranked(site, documents=["a", "b", "sea", "c"])
    assert [one["index"] for one in body["results"]] == [2, 0, 1, 3]


async def test_what_has_no_effect_on_an_order_is_told(site):
    _, headers, _ = await site.post(json.dumps({**RERANKED, "priority": 1}).encode(), "/v1/rerank")
    assert headers["x-plugsky-ignored"] == "priority"


REFUSED = {
    "an unknown name": ({"colour": 1}, "colour"),
    "no input": ({"input": None}, "input"),
    "an empty text": ({"input": ""}, "input"),
    "an empty list": ({"input": []}, "input"),
    "an empty text among others": ({"input": ["a", ""]}, "input[1]"),
    "no token ids": ({"input": [[1], []]}, "input[1]"),
    "ids among texts": ({"input": ["a", 7]}, "input[1]"),
    "an id below zero": ({"input": [-1]}, "input[0]"),
    "a fraction of an id": ({"input": [1.5]}, "input[0]"),
    "too many inputs": ({"input": ["a"] * 2049}, "input"),
    "a form nobody knows": ({"encoding_format": "hex"}, "encoding_format"),
    "no dimension": ({"dimensions": 0}, "dimensions"),
    "a user that is a number": ({"user": 7}, "user"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_field_of_vectors_that_cannot_be_honoured_is_refused_by_its_name(case):
    changes, param = REFUSED[case]
    with pytest.raises(PlugskyError) as refused:
        embedding_fields.parse(json.dumps({"model": "m", "input": "a", **changes}).encode(), LIMITS)
    assert refused.value.kind.value.status == 400
    assert refused.value.param == param


REFUSED_DOCUMENTS = {
    "an unknown name": ({"colour": 1}, "colour"),
    "no query": ({"query": ""}, "query"),
    "no documents": ({"documents": []}, "documents"),
    "too many documents": ({"documents": ["a"] * 2049}, "documents"),
    "an empty document": ({"documents": ["a", ""]}, "documents"),
    "an image": ({"documents": [{"image": "x"}]}, "documents[0].image"),
    "nothing wanted": ({"top_n": 0}, "top_n"),
    "a document that is to be cut": ({"max_tokens_per_doc": 9}, "max_tokens_per_doc"),
    "another field": ({"rank_fields": ["title"]}, "rank_fields"),
}


@pytest.mark.parametrize("case", REFUSED_DOCUMENTS)
def test_a_field_of_an_order_that_cannot_be_honoured_is_refused_by_its_name(case):
    changes, param = REFUSED_DOCUMENTS[case]
    with pytest.raises(PlugskyError) as refused:
        rerank.parse(json.dumps({**RERANKED, **changes}).encode(), LIMITS)
    assert refused.value.kind.value.status == 400
    assert refused.value.param is not None
    assert refused.value.param.startswith(param.split("[")[0])


def test_every_parameter_of_the_sdk_for_vectors_is_in_exactly_one_table():
    tables = embedding_fields.EMBEDDINGS
    assert tables.honoured == set(typing.get_type_hints(sdk.EmbeddingCreateParams))
    assert not {*tables.ignored, *tables.refused, *tables.extensions}


@pytest.mark.parametrize(
    ("kind", "tables"),
    [(embedding_fields.EmbeddingFields, embedding_fields.EMBEDDINGS), (rerank.RerankFields, rerank.RERANK)],
)
def test_what_is_honoured_of_vectors_and_orders_is_what_is_read(kind, tables):
    assert {field.name for field in msgspec.structs.fields(kind)} == tables.honoured | tables.extensions


TEXT = st.text("a b\0\ud800\u20ac", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.just("text"), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(embedding_fields.EMBEDDINGS.honoured | rerank.RERANK.honoured)), JSON))
def test_any_body_for_vectors_or_an_order_is_read_or_refused_with_a_400(fields):
    for parse, whole in ((embedding_fields.parse, {"model": "m", "input": "a"}), (rerank.parse, RERANKED)):
        try:
            parse(json.dumps({**whole, **fields}).encode("utf-8", "surrogatepass"), LIMITS)
        except PlugskyError as error:
            assert error.kind.value.status == 400  # noqa: PT017 - most bodies are refused, some are read
