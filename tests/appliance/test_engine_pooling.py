"""Embeddings and rerank scores are right: compared with sums done here, in any batch, and refused where impossible."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import small_bert
from appliance.embed_model import embed_model
from appliance.small_bert import BEGIN, CLS, LAST, MEAN, RANK, SEPARATOR
from bundles.small_llama import small_llama
from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.llama import native
from plugsky.engine.llama.pooling import PooledContext, cut, pair_form
from plugsky.engine.loading import model_file
from plugsky.engine.stepping.embedding import normalised

__all__ = ["embed_model"]
pytestmark = pytest.mark.integration
APPLE, PEAR, FRUIT, ENGINE, WHEEL = range(5, 10)
TEXTS = ([BEGIN, APPLE, SEPARATOR], [BEGIN, ENGINE, WHEEL, ENGINE, SEPARATOR], [BEGIN, FRUIT, PEAR, APPLE, SEPARATOR])


@pytest.fixture
def pooled(tmp_path):
    """Makes contexts of files: ``pooled(bytes or path, mode)`` gives model and context."""
    opened = []

    def make(file, mode, **options):
        if isinstance(file, bytes):
            path = tmp_path / f"m{len(opened)}.gguf"
            path.write_bytes(file)
            file = path
        model_file.check_file(file)
        model = native.Model(file, lambda _fraction: True)
        opened.append(model)
        holding = Holding(**({"cells": 512, "batch": 512, "sequences": 8, "outputs": 512, "vectors": True} | options))
        context = PooledContext(model, holding, mode, threads=2)
        opened.append(context)
        return model, context

    yield make
    for one in reversed(opened):
        one.close()


def test_embeddings_are_what_the_weights_make_of_the_text(pooled):
    _, context = pooled(small_bert.small_bert(MEAN), "embed")
    assert context.dimensions == small_bert.WIDTH
    for text, vector in zip(TEXTS, context.compute(TEXTS), strict=True):
        assert vector == pytest.approx(small_bert.hidden(text).mean(axis=0), abs=2e-3)


def test_scores_are_what_the_classifier_makes_of_the_pair(pooled):
    model, context = pooled(small_bert.small_bert(RANK), "rerank")
    assert pair_form(model).between == (SEPARATOR,)
    pairs = [[BEGIN, FRUIT, SEPARATOR, word, SEPARATOR] for word in (APPLE, PEAR, ENGINE, WHEEL)]
    scores = [float(vector[0]) for vector in context.compute(pairs)]
    assert scores == pytest.approx([small_bert.score(pair) for pair in pairs], abs=2e-3)
    assert len(set(scores)) == 4


def test_paraphrases_are_closer_than_strangers_and_a_batch_is_as_good_as_one_by_one(pooled, embed_model):
    model, context = pooled(embed_model, "embed", sequences=64)
    assert context.dimensions == 384
    pairs = [
        ("A man is eating food.", "Someone is having a meal."),
        ("The stock market fell sharply today.", "Share prices dropped a lot."),
        ("How do I reset my password?", "I forgot my login, what now?"),
    ]
    texts = [text for pair in pairs for text in pair] * 4
    tokens = [model.tokens(text, add_special=True, parse_special=False) for text in texts]
    together = [normalised(vector) for vector in context.compute(tokens)]
    alone = [normalised(context.compute([text])[0]) for text in tokens]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    likeness = np.array(together[:6]) @ np.array(together[:6]).T
    alike = [likeness[n, n + 1] for n in (0, 2, 4)]
    unlike = [likeness[n, m] for n in range(6) for m in range(6) if n // 2 != m // 2]
    assert min(alike) > max(unlike) + 0.1


UNABLE = {
    "a model that embeds, to rerank": (small_bert.small_bert(MEAN), "rerank", "makes no scores", "it makes embeddings"),
    "a model that reranks, to embed": (small_bert.small_bert(RANK), "embed", "no embeddings", "it makes scores"),
    "a model that pools nothing, to embed": (small_bert.small_bert(None), "embed", "no embeddings", "names no way"),
    "a model that generates, to embed": (small_llama(), "embed", "no embeddings", "names no way"),
    "a model that generates, to rerank": (small_llama(), "rerank", "no scores", "names no way"),
}


@pytest.mark.parametrize(("file", "mode", "what", "why"), UNABLE.values(), ids=UNABLE)
def test_a_model_is_refused_a_mode_that_it_cannot_do(pooled, file, mode, what, why):
    with pytest.raises(EngineError) as refusal:
        pooled(file, mode)
    assert refusal.value.kind is ErrorKind.NOT_SUPPORTED
    assert what in refusal.value.what
    assert why in refusal.value.why


def test_an_encoder_is_refused_to_generate(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(small_bert.small_bert(MEAN))
    model = native.Model(file, lambda _fraction: True)
    with pytest.raises(EngineError, match="generates no text"):
        native.Context(model, Holding(256, 64, 1, 64), threads=1)
    model.close()


CAUSAL = (list(b"A quarter of an hour ago the ship left."), list(b"Yes."), list(b"Bread, butter and salt " * 6))


@pytest.mark.parametrize("pooling", [MEAN, CLS, LAST], ids=["mean", "first token", "last token"])
def test_a_text_computed_in_pieces_becomes_what_it_is_whole(pooled, pooling):
    _, whole = pooled(small_llama(pooling=pooling), "embed", cells=256, batch=256, outputs=256)
    _, pieces = pooled(small_llama(pooling=pooling), "embed", cells=256, batch=64, outputs=64)
    assert pieces.longest == whole.longest == 256
    for one, another in zip(whole.compute(CAUSAL), pieces.compute(CAUSAL), strict=True):
        np.testing.assert_allclose(one, another, atol=2e-3)


@settings(deadline=None)
@given(st.lists(st.lists(st.just(1), min_size=1, max_size=30), min_size=1, max_size=8), st.integers(1, 40))
def test_texts_are_cut_into_full_batches_and_lose_nothing(texts, most):
    batches = cut(texts, most)
    assert all(sum(end - start for _, start, end in batch) == most for batch in batches[:-1])
    pieces = [piece for batch in batches for piece in batch]
    for place, text in enumerate(texts):
        own = [(start, end) for found, start, end in pieces if found == place]
        assert [start for start, _ in own] == [0, *(end for _, end in own[:-1])]
        assert own[-1][1] == len(text)


BATCHES = {
    "no text": [],
    "an empty text": [[BEGIN], []],
    "more texts than places": [[BEGIN]] * 9,
    "more tokens than positions": [[BEGIN] * (small_bert.CONTEXT + 1)],
    "a token below the vocabulary": [[-1]],
    "a token above the vocabulary": [[len(small_bert.TOKENS)]],
}


@pytest.mark.parametrize("texts", BATCHES.values(), ids=BATCHES)
def test_what_would_end_the_process_is_refused_before(pooled, texts):
    _, context = pooled(small_bert.small_bert(MEAN), "embed")
    with pytest.raises(native.BatchRefusedError):
        context.compute(texts)
    assert len(context.compute([TEXTS[0]])) == 1


def test_the_longest_text_is_what_positions_and_settings_allow(pooled):
    _, context = pooled(small_bert.small_bert(MEAN), "embed")
    assert context.longest == small_bert.CONTEXT
    assert len(context.compute([[BEGIN] * small_bert.CONTEXT])) == 1
    _, context = pooled(small_bert.small_bert(MEAN), "embed", cells=32)
    assert context.longest == 32


def test_a_file_may_say_how_its_pairs_are_written(pooled):
    model, _ = pooled(small_bert.small_bert(RANK, template="q: {query} d: {document}"), "rerank")
    assert pair_form(model).template == "q: {query} d: {document}"


def test_no_text_changes_what_its_neighbours_become(pooled):
    _, context = pooled(small_bert.small_bert(MEAN), "embed")
    kept = [context.compute([TEXTS[0], other])[0] for other in TEXTS[1:]] + [context.compute(TEXTS[:1])[0]]
    for one, another in pairwise(kept):
        np.testing.assert_allclose(one, another, atol=1e-4)
