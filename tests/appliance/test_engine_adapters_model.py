"""A real model with adapters beside it: each request gets its own, whatever runs at the same time and was cached."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.engine_host import answer, digest_of, running_engine, spec_of
from bundles.lora import lora
from plugsky.core.errors import ErrorKind
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import EngineError
from plugsky.engine.spec import AdapterSpec
from plugsky_bundles import gguf

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
LAYERS = range(10, 20)
NAMES = ("", "one", "two")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(chat_model):
    """A peer of an engine whose model has two adapters."""
    with chat_model.open("rb") as file:
        model = {tensor.name: tensor.dimensions for tensor in gguf.read(file, chat_model.stat().st_size).tensors}
    matrices = {name: model[name] for name in (f"blk.{layer}.ffn_down.weight" for layer in LAYERS)}
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        adapters = []
        for seed, adapter in enumerate(NAMES[1:], start=1):
            file = Path(name) / f"{adapter}.gguf"
            file.write_bytes(lora(matrices, seed=seed, strength=0.2))
            adapters.append(AdapterSpec(adapter, file, digest_of(file)))
        spec = replace(spec_of(chat_model), adapters=tuple(adapters))
        async with running_engine(spec, Path(name) / "e.sock"):
            client = EngineClient(Path(name) / "e.sock")
            await client.connect(60)
            yield client
            await client.close()


async def tokens_of(client, text):
    return (await client.prepare(tenant="acme", text=text)).tokens


async def made(client, tokens, adapter, tenant="acme", count=12):
    ids, _, final = await answer(client, tokens, count, adapter=adapter, tenant=tenant)
    return ids, final.usage.cached_tokens


async def test_adapters_change_the_answer_and_leave_the_models_own_alone_also_at_the_same_time(client):
    tokens = await tokens_of(client, "The capital of France is a city on the river")
    alone = {name: (await made(client, tokens, name))[0] for name in NAMES}
    assert len({tuple(ids) for ids in alone.values()}) == 3, "each says something of its own"
    together = await asyncio.gather(*(made(client, tokens, name, tenant) for name in NAMES for tenant in ("b", "c")))
    for ids, expected in zip(together, [alone[name] for name in NAMES for _ in range(2)], strict=True):
        assert ids[0][:3] == expected[:3], "but for the kernels of other batch shapes"


async def test_what_was_computed_under_one_adapter_is_never_read_under_another(client):
    tokens = await tokens_of(client, "In the harbour of a small town lay three old ships, and nobody knew why. " * 3)
    first = {name: await made(client, tokens, name, tenant="d", count=4) for name in NAMES}
    assert [cached for _, cached in first.values()] == [0, 0, 0]
    again = {name: await made(client, tokens, name, tenant="d", count=4) for name in NAMES}
    assert [cached for _, cached in again.values()] == [len(tokens) - 1] * 3
    assert [ids[:1] for ids, _ in again.values()] == [ids[:1] for ids, _ in first.values()]


async def test_a_canary_is_read_without_an_adapter_and_leaves_the_next_request_its_own(client):
    tokens = await tokens_of(client, "Count with me: one, two, three,")
    before, _ = await made(client, tokens, "two", tenant="e", count=2)
    canary = await client.canary()
    after, _ = await made(client, tokens, "two", tenant="f", count=2)
    assert not canary.tripped
    assert after == before


async def test_an_unknown_adapter_is_refused_with_those_there_are(client):
    for refused in (
        client.prepare(tenant="acme", text="a", adapter="three"),
        answer(client, (1, 2), 4, adapter="three"),
    ):
        with pytest.raises(EngineError, match=r"no adapter 'three'.* it has: one, two") as refusal:
            await refused
        assert (refusal.value.kind, refusal.value.param) == (ErrorKind.MODEL_NOT_FOUND, "adapter")
    assert (await client.prepare(tenant="acme", text="a", adapter="two")).tokens
