"""Aleph Alpha's dialect as the unmodified ``aleph-alpha-client`` package speaks it."""

import asyncio
import dataclasses
import json
import tempfile
from pathlib import Path

import msgspec
import pytest
from aleph_alpha_client import (
    AsyncClient,
    BatchSemanticEmbeddingRequest,
    BusyError,
    Client,
    CompletionRequest,
    CustomGranularity,
    DetokenizationRequest,
    EmbeddingRequest,
    EvaluationRequest,
    ExplanationPostprocessing,
    ExplanationRequest,
    Prompt,
    PromptGranularity,
    QuotaError,
    SemanticEmbeddingRequest,
    SemanticRepresentation,
    TargetGranularity,
    Text,
    TokenizationRequest,
    Tokens,
)
from aleph_alpha_client.completion import CompletionSummary, StreamChunk, StreamSummary
from aleph_alpha_client.prompt import TextControl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.api_site import MODEL, ApiSite
from appliance.scripted_vectors import ScriptedVectors, vector_of
from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.aleph_alpha import tables
from plugsky.server.aleph_alpha.fields import parse_complete, parse_explain

ASKED = Prompt.from_text("how wide is it")
SAID = "The sea is wide."
VECTORS = "vector-1b"


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            running.vectors = ScriptedVectors()
            running.vectors.script.caps = ("pooling:mean",)
            await running.vectors.listen(running.paths.engine_socket(VECTORS))
            yield running
            await running.vectors.close()


@pytest.fixture
def ask(site):
    """A call of the client, in a thread of its own: the package's client blocks."""
    clients = []

    async def asking(verb, request, model=MODEL, key=None, **options):
        host = f"http://127.0.0.1:{site.port}/aleph-alpha"
        client = Client(token=key or site.key, host=host, total_retries=0, **options)
        clients.append(client)
        return await asyncio.to_thread(getattr(client, verb), request, model)

    yield asking
    for client in clients:
        client.session.close()


async def test_a_completion_comes_whole_and_is_billed(site, ask):
    answer = await ask("complete", CompletionRequest(prompt=ASKED, maximum_tokens=16, stop_sequences=["###"]))
    (one,) = answer.completions
    assert (one.completion, one.finish_reason) == (SAID, "end_of_text")
    assert (answer.model_version, answer.num_tokens_prompt_total, answer.num_tokens_generated) == (MODEL, 4, 4)
    params = site.engine.submits[0].params
    assert (params.temperature, params.stop) == (0.0, ("###",))
    await site.settled()
    assert [(row.prompt_tokens, row.completion_tokens) for row in site.rows()] == [(4, 4)]


async def test_each_way_to_end_has_its_name(site, ask):
    assert (await ask("complete", CompletionRequest(ASKED, 2))).completions[0].finish_reason == "maximum_tokens"
    site.with_engine(stop="###")
    answer = await ask("complete", CompletionRequest(ASKED, 9, stop_sequences=["###"]))
    assert answer.completions[0].finish_reason == "stop_sequence_reached"


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({}, (0.0, 0, 1.0)),
        ({"temperature": 0.7}, (0.7, 0, 1.0)),
        ({"top_k": 5}, (1.0, 5, 1.0)),
        ({"top_p": 0.9}, (1.0, 0, 0.9)),
        ({"top_k": 1}, (0.0, 1, 1.0)),
    ],
)
async def test_chance_is_asked_for_by_temperature_top_k_or_top_p(site, ask, given, drawn):
    await ask("complete", CompletionRequest(ASKED, 4, **given))
    params = site.engine.submits[0].params
    assert (params.temperature, params.top_k, params.top_p) == drawn


async def test_echo_and_log_probabilities_tell_of_the_prompt_too(ask):
    answer = await ask("complete", CompletionRequest(ASKED, 0, echo=True, log_probs=1, tokens=True))
    (one,) = answer.completions
    assert one.completion == "how wide is it"
    assert one.completion_tokens == ["how", " wide", " is", " it"]
    assert one.log_probs[0] == {}
    assert [set(each) for each in one.log_probs[1:]] == [{" wide", "rival"}, {" is", "rival"}, {" it", "rival"}]


async def test_the_surest_of_several_answers_come_first(site, ask):
    site.with_engine(sureness=(-3.0, -0.1, -2.0))
    site.engine.script.turns = [("worst",), ("best",), ("middling",)]
    answer = await ask("complete", CompletionRequest(ASKED, 4, n=2, best_of=3, temperature=1.0))
    assert [one.completion for one in answer.completions] == ["best", "middling"]
    assert answer.num_tokens_generated == 3


async def test_a_prompt_may_be_texts_and_token_ids_one_behind_the_other(site, ask):
    prompt = Prompt([Text.from_text("how wide"), Tokens.from_token_ids([7, 8, 9])])
    await ask("complete", CompletionRequest(prompt, 4))
    assert site.engine.submits[0].tokens == (0, 1, 7, 8, 9)


async def test_a_stream_tells_stretches_ends_and_at_last_the_counts(site):
    host = f"http://127.0.0.1:{site.port}/aleph-alpha"
    async with AsyncClient(token=site.key, host=host, total_retries=0) as client:
        request = CompletionRequest(ASKED, 16, tokens=True)
        items = [item async for item in client.complete_with_streaming(request, MODEL)]
    *chunks, end, summary = items
    assert all(isinstance(chunk, StreamChunk) for chunk in chunks)
    assert "".join(chunk.completion for chunk in chunks) == SAID
    assert [token for chunk in chunks for token in chunk.completion_tokens] == ["The ", "sea ", "is ", "wide."]
    assert end == StreamSummary(0, MODEL, "end_of_text")
    assert summary == CompletionSummary(None, 4, 4)


async def test_a_stream_that_waits_holds_nothing_that_the_client_cannot_read(site, monkeypatch):
    monkeypatch.setitem(site.policy.limits.__dict__, "keepalive_s", 0.05)
    site.with_engine(hold_after=2)
    host = f"http://127.0.0.1:{site.port}/aleph-alpha"
    async with AsyncClient(token=site.key, host=host, total_retries=0) as client:
        items = []
        async for item in client.complete_with_streaming(CompletionRequest(ASKED, 16), MODEL):
            items.append(item)
            if len(items) == 2:
                await asyncio.sleep(0.3)
                site.engine.release.set()
    assert isinstance(items[-1], CompletionSummary)


async def test_an_evaluation_tells_how_likely_a_text_is_behind_a_prompt(site, ask):
    request = EvaluationRequest(prompt=ASKED, completion_expected=" very wide indeed")
    answer = await ask("evaluate", request)
    (submit,) = site.engine.submits
    assert (submit.tokens, submit.max_tokens) == ((0, 1, 2, 3, 0, 1, 2), 0)
    total = -1.5 * 3 - (0 + 1 + 2)
    result = answer.result
    assert result["log_probability"] == pytest.approx(total)
    assert result["log_perplexity"] == pytest.approx(-total)
    assert result["log_perplexity_per_token"] == pytest.approx(-total / 3)
    assert result["log_perplexity_per_character"] == pytest.approx(-total / len(" very wide indeed"))
    assert (result["token_count"], result["character_count"]) == (3, len(" very wide indeed"))
    assert (result["correct_greedy"], result["completion"]) == (False, "rivalrivalrival")
    assert answer.num_tokens_prompt_total == 7
    await site.settled()
    assert [(row.prompt_tokens, row.completion_tokens) for row in site.rows()] == [(7, 0)]


async def test_an_explanation_leaves_out_one_stretch_after_another_and_is_one_request_in_the_books(site, ask):
    request = ExplanationRequest(ASKED, " very wide", prompt_granularity=PromptGranularity.Word)
    answer = await ask("explain", request)
    left = [submit.tokens for submit in site.engine.submits]
    assert left == [(0, 1, 2, 3, 0, 1), (1, 2, 3, 0, 1), (0, 2, 3, 0, 1), (0, 1, 3, 0, 1), (0, 1, 2, 0, 1)]
    (one,) = answer.explanations
    assert one.target == " very wide"
    assert [(score.start, score.length) for score in one.items[0].scores] == [(0, 3), (4, 4), (9, 2), (12, 2)]
    assert one.items[1].scores == []
    await site.settled()
    assert [row.prompt_tokens for row in site.rows()] == [6 + 4 * 5]


async def test_each_token_of_a_target_may_be_explained_and_a_delimiter_may_cut(ask):
    prompt = Prompt([Text.from_text("a b###c d###e"), Tokens.from_token_ids([7, 8])])
    request = ExplanationRequest(
        prompt,
        " very wide",
        prompt_granularity=CustomGranularity("###"),
        target_granularity=TargetGranularity.Token,
        postprocessing=ExplanationPostprocessing.Absolute,
        normalize=True,
    )
    answer = (await ask("explain", request)).with_text_from_prompt(request)
    assert [one.target for one in answer.explanations] == [" very", " wide"]
    texts, tokens, target = answer.explanations[0].items
    assert [score.text for score in texts.scores] == ["a b", "c d", "e"]
    assert (len(tokens.scores), target.scores) == (2, [])


async def test_a_prompt_that_is_one_stretch_is_left_out_for_a_line_end(site, ask):
    await ask("explain", ExplanationRequest(Prompt.from_text("wide"), " sea", prompt_granularity="sentence"))
    assert [submit.tokens for submit in site.engine.submits] == [(0, 0), (0, 0)]


async def test_more_stretches_than_can_be_weighed_are_refused_with_the_numbers(site, ask):
    request = ExplanationRequest(Prompt.from_text("a " * 65), " b", prompt_granularity=PromptGranularity.Word)
    with pytest.raises(ValueError, match="the prompt has 65 stretches so; at most 64 are weighed"):
        await ask("explain", request)
    assert site.engine.submits == []


async def test_texts_become_vectors(site, ask):
    asked = SemanticEmbeddingRequest(Prompt.from_text("seas of it"), SemanticRepresentation.Symmetric)
    one = await ask("semantic_embed", asked, VECTORS)
    assert one.embedding == pytest.approx(list(memoryview(vector_of(4)).cast("f")))
    assert one.num_tokens_prompt_total == 3
    prompts = [Prompt.from_text(text) for text in ("a b", "sea", "wide is it")]
    several = await ask(
        "batch_semantic_embed", BatchSemanticEmbeddingRequest(prompts, SemanticRepresentation.Query), VECTORS
    )
    expected = [list(memoryview(vector_of(size)).cast("f")) for size in (1, 3, 4)]
    assert [pytest.approx(vector) for vector in expected] == several.embeddings
    assert several.num_tokens_prompt_total == 6


async def test_a_vector_of_the_last_layer_is_told_by_the_way_its_model_pools(site, ask):
    request = EmbeddingRequest(Prompt.from_text("seas of it"), layers=[-1], pooling=["mean"])
    found = await ask("embed", request, VECTORS)
    assert found.embeddings[("layer_-1", "mean")] == pytest.approx(list(memoryview(vector_of(4)).cast("f")))
    assert found.tokens is None
    with pytest.raises(RuntimeError, match="does not pool by max"):
        await ask("embed", EmbeddingRequest(ASKED, layers=[-1], pooling=["max"]), VECTORS)
    with pytest.raises(ValueError, match="last layer"):
        await ask("embed", EmbeddingRequest(ASKED, layers=[0], pooling=["mean"]), VECTORS)


async def test_texts_become_tokens_and_tokens_texts(ask):
    found = await ask("tokenize", TokenizationRequest("how wide is it", tokens=True, token_ids=True))
    assert (found.tokens, found.token_ids) == (["how", " wide", " is", " it"], [0, 1, 2, 3])
    only = await ask("tokenize", TokenizationRequest("how wide", tokens=False, token_ids=True))
    assert (only.tokens, only.token_ids) == (None, [0, 1])
    assert (await ask("detokenize", DetokenizationRequest([4, 5]))).result == "<4><5>"


async def test_version_and_models_are_told_to_who_has_a_key(site):
    host = f"http://127.0.0.1:{site.port}/aleph-alpha"
    client = Client(token=site.key, host=host, total_retries=0)
    await asyncio.to_thread(client.validate_version)
    models = await asyncio.to_thread(client.models)
    client.session.close()
    assert [model["name"] for model in models] == [MODEL, "other-2b", VECTORS]
    assert models[0]["max_context_size"] == 2048


async def test_a_wish_to_give_way_is_told_to_have_no_effect(site):
    body = json.dumps({"model": MODEL, "prompt": "how wide", "maximum_tokens": 4}).encode()
    status, headers, _ = await site.post(body, "/complete?nice=true")
    assert (status, headers["x-plugsky-ignored"]) == (200, "nice")


async def test_failures_are_those_that_the_package_has_names_for(site, ask):
    request = CompletionRequest(ASKED, 4)
    with pytest.raises(PermissionError):
        await ask("complete", request, key="psk_aaaaaaaa_" + "b" * 43)
    with pytest.raises(RuntimeError, match="404"):
        await ask("complete", request, "luminous-none")
    with pytest.raises(ValueError, match="context"):
        await ask("complete", CompletionRequest(Prompt.from_text("word " * 200), 4))
    site.with_engine(refuse_submit=frames.Failed(0, "overloaded", "the queue of 4 is full"))
    with pytest.raises(BusyError):
        await ask("complete", request)
    site.tenants.set("acme", lambda terms: dataclasses.replace(terms, monthly_tokens=1))
    with pytest.raises(QuotaError):
        await ask("complete", request)


@pytest.mark.parametrize(
    ("request_type", "table", "own"),
    [
        (CompletionRequest, tables.COMPLETE, {"model", "stream"}),
        (EvaluationRequest, tables.EVALUATE, {"model"}),
        (ExplanationRequest, tables.EXPLAIN, {"model"}),
        (EmbeddingRequest, tables.EMBED, {"model"}),
        (SemanticEmbeddingRequest, tables.SEMANTIC_EMBED, {"model"}),
        (BatchSemanticEmbeddingRequest, tables.BATCH_SEMANTIC_EMBED, {"model"}),
        (TokenizationRequest, tables.TOKENIZE, {"model"}),
        (DetokenizationRequest, tables.DETOKENIZE, {"model"}),
    ],
)
def test_each_parameter_of_the_package_is_in_one_table(request_type, table, own):
    theirs = {each.name for each in dataclasses.fields(request_type)} | own | {"hosting", "tags"}
    sorted_here = [*table.honoured, *table.extensions, *table.ignored, *table.refused]
    assert sorted(sorted_here) == sorted(theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_penalty": 0.5}, {"minimum_tokens": 3}, {"steering_concepts": ["x"]}, {"penalty_bias": "x"},
        {"use_multiplicative_presence_penalty": True}, {"repetition_penalties_include_prompt": True},
        {"completion_bias_inclusion": ["a"]}, {"best_of": 1, "n": 2}, {"best_of": 21}, {"n": 10**9},
        {"maximum_tokens": 0}, {"maximum_tokens": -1}, {"temperature": 3.0}, {"log_probs": 21},
        {"stop_sequences": ["x"] * 10_000}, {"logit_bias": {"x": 1}}, {"color": "red"}, {"prompt": [{"type": "x"}]},
        {"prompt": [{"type": "text", "data": "a", "controls": [{"start": 0, "length": 1, "factor": 0.5}]}]},
        {"prompt": [{"type": "token_ids", "data": [-1]}]}, {"prompt": 7},
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_a_400_and_reaches_no_engine(site, change):
    given = {"model": MODEL, "prompt": "how wide", "maximum_tokens": 4, **change}
    status, _, body = await site.post(json.dumps(given).encode(), "/complete")
    assert (status, set(json.loads(body))) == (400, {"error", "code"})
    assert site.engine.submits == []


async def test_images_and_controls_of_attention_are_refused_by_their_place(site, ask):
    image = json.dumps({"model": MODEL, "prompt": [{"type": "image", "data": "AAAA"}]}).encode()
    status, _, body = await site.post(image, "/complete")
    assert status == 501
    assert "images" in json.loads(body)["error"]
    with pytest.raises(ValueError, match="attention"):
        await ask("complete", CompletionRequest(Prompt([Text("sea", [TextControl(0, 3, 0.5)])]), 4))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from([parse_complete, parse_explain]),
    st.dictionaries(
        st.sampled_from(["prompt", "target", "n", "best_of", "top_p", "log_probs", "prompt_granularity", "tags"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=6),
    ),
)
def test_a_body_is_read_or_refused_by_name(parse, body):
    refused = None
    try:
        parse(msgspec.json.encode({"model": "m", **body}), Limits())
    except PlugskyError as error:
        refused = error.kind.value.status
    assert refused in {None, 400, 501}
