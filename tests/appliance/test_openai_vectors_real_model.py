"""The whole way of vectors with nothing scripted: SDK, gateway, an engine process, a real model, the books."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.api_site import LIMITS, ApiSite
from appliance.embed_model import embed_model
from appliance.engine_host import answer, running_engine, spec_of
from plugsky.core.frames import Params
from plugsky.engine.clients.client import EngineClient
from plugsky.server.deps import ServedModel

__all__ = ["embed_model"]
TEXTS = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again in May."]


@pytest.mark.integration
async def test_real_vectors_are_the_engines_own_and_mean_something(tmp_path, embed_model):
    spec = spec_of(embed_model, mode="embed")
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), replace(LIMITS, load_wait_s=60.0)) as site:
            site.gateway.models["mini"] = ServedModel("mini", spec.digest, 512, mode="embed")
            async with running_engine(spec, site.paths.engine_socket("mini")):
                client = EngineClient(site.paths.engine_socket("mini"))
                await client.connect(60)
                prepared = [await client.prepare(tenant="t", text=text) for text in TEXTS]
                own = [(await answer(client, each.tokens, 0, params=Params()))[2].embedding for each in prepared]
                made = await site.client.embeddings.create(model="mini", input=TEXTS)
                ids = await site.client.embeddings.create(model="mini", input=[list(each.tokens) for each in prepared])
                await client.close()
            vectors = np.array([one.embedding for one in made.data])
            assert vectors.shape == (3, 384)
            assert np.sum(vectors * [np.frombuffer(each, "<f4") for each in own], axis=1).min() > 0.999
            assert np.sum(vectors * [one.embedding for one in ids.data], axis=1).min() > 0.999
            assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2] + 0.2
            tokens = sum(len(each.tokens) for each in prepared)
            assert [row.prompt_tokens for row in site.rows()] == [tokens, tokens]
            assert made.usage.prompt_tokens == tokens
