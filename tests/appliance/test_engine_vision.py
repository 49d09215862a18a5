"""The real engine process reads real images: bounded, shared, told apart, and alive whatever it is sent."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio

from appliance.api_site import until
from appliance.engine_host import answer, collect, command_for, digest_of, running_engine, spec_of
from appliance.test_engine_pictures import png
from bundles.small_llama import small_llama
from bundles.small_projector import IMAGE_TOKENS, small_projector
from plugsky.core import processes
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params, Prepare
from plugsky.core.ids import new_id
from plugsky.core.request import ImagePart, Message
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.llama import images as llama_images
from plugsky.engine.loading import loading
from plugsky.engine.spec import ProjectorSpec
from plugsky.server.deps import ServedModel
from plugsky.server.engines import EnginePool

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not llama_images.available(), reason="libmtmd is not installed"),
    pytest.mark.asyncio(loop_scope="module"),
]
LOOK = (Message("user", ("look:", ImagePart(0), "what is it?")),)


def picture(seed, width=40, height=30):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 3 * width), dtype=np.uint8)
    return png(width, height, [row.tobytes() for row in pixels])


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    model, projector = folder / "small.gguf", folder / "eye.gguf"
    model.write_bytes(small_llama())
    projector.write_bytes(small_projector())
    return replace(spec_of(model, 512), projector=ProjectorSpec(projector, digest_of(projector)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(spec, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "engine.sock"
    async with running_engine(spec, path):
        client = EngineClient(path)
        await client.connect(60)
        yield client
        await client.close()


async def first_token(client, image, tenant="acme"):
    """The logprobs of the first token behind an image, and the usage."""
    prepared = await client.prepare(tenant=tenant, messages=LOOK, images=(image,))
    params = Params(temperature=0.0, top_logprobs=5)
    running = client.submit(job=new_id(), tenant=tenant, tokens=prepared.tokens, params=params, max_tokens=1)
    items = [item async for item in running]
    running.acknowledge()
    (known,) = (known for item in items for known in item.logprobs)
    return [(piece, round(logprob, 3)) for _, piece, logprob in known.top], items[-1].final.usage


async def refused(client, **prompt):
    with pytest.raises(EngineError) as caught:
        await client.prepare(tenant="acme", **{"messages": LOOK, **prompt})
    return caught.value


async def test_an_image_is_a_run_of_tokens_below_zero_in_the_place_it_has_in_the_message(client):
    prepared = await client.prepare(tenant="acme", messages=LOOK, images=(picture(1),))
    virtual = [at for at, token in enumerate(prepared.tokens) if token < 0]
    assert len(virtual) == IMAGE_TOKENS
    before = await client.prepare(tenant="acme", messages=(Message("user", "look:\n"),))
    assert virtual == [*range(len(before.tokens), len(before.tokens) + IMAGE_TOKENS)]


async def test_the_same_image_twice_is_cached_and_another_gives_another_answer(client):
    first, first_usage = await first_token(client, picture(1))
    again, again_usage = await first_token(client, picture(1))
    other, other_usage = await first_token(client, picture(2))
    assert again == first
    assert other != first
    assert again_usage.cached_tokens == again_usage.prompt_tokens - 1
    assert other_usage.cached_tokens == first_usage.prompt_tokens - IMAGE_TOKENS - len("\nwhat is it?")


async def test_another_tenant_is_not_told_that_an_image_is_cached(client):
    await first_token(client, picture(3))
    _, usage = await first_token(client, picture(3), tenant="zeta")
    assert usage.cached_tokens == 0


async def test_many_prompts_with_images_at_once_all_get_the_answer_they_get_alone(client):
    alone = [(await first_token(client, picture(n)))[0] for n in range(4)]
    together = await asyncio.gather(*(first_token(client, picture(n % 4), f"t{n}") for n in range(12)))
    close = [
        abs(mine[1] - theirs[1]) < 0.02
        for n, (answer_, _) in enumerate(together)
        for mine, theirs in zip(answer_[:1], alone[n % 4][:1], strict=True)
    ]
    assert all(close)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (b"not a picture", ErrorKind.BAD_REQUEST),
        (picture(1)[:100], ErrorKind.BAD_REQUEST),
        (png(8000, 8000), ErrorKind.TOO_LARGE),
        (bytes((8 << 20) + 1), ErrorKind.TOO_LARGE),
        (png(1, 1000), ErrorKind.BAD_REQUEST),
    ],
    ids=["no-picture", "broken", "bomb", "huge-file", "thread"],
)
async def test_what_is_no_picture_fails_its_request_by_name_and_the_engine_lives(client, image, kind):
    error = await refused(client, images=(image,))
    assert (error.kind, error.param) == (kind, "images")
    made, _, _ = await answer(client, (72, 73), 2)
    assert len(made) == 2


async def test_images_without_a_place_or_a_place_without_an_image_are_refused(client):
    assert (await refused(client, images=(picture(1), picture(2)))).param == "images"
    assert (await refused(client, messages=None, text="hello", images=(picture(1),))).param == "images"
    assert (await refused(client)).param == "messages"
    assert "at most 8" in (await refused(client, images=(picture(1),) * 9)).what


async def test_virtual_tokens_of_ones_own_making_are_refused_and_the_engine_lives(client):
    for tokens in ((1, -5, 2), (1, *range(-(1 << 31), -(1 << 31) + 9)), (-(1 << 40),)):
        with pytest.raises(EngineError) as caught:
            await answer(client, tokens, 2)
        assert caught.value.kind in {ErrorKind.BAD_REQUEST, ErrorKind.CONFLICT}
    assert (await refused(client, messages=None, tokens=(1, -5, 2))).kind is ErrorKind.BAD_REQUEST


async def test_a_client_that_leaves_while_its_image_is_computed_costs_nobody_anything(client):
    prepared = await client.prepare(tenant="acme", messages=LOOK, images=(picture(9),))
    running = client.submit(job=new_id(), tenant="acme", tokens=prepared.tokens, params=Params(), max_tokens=8)
    running.cancel()
    with contextlib.suppress(EngineError):
        assert [item async for item in running][-1].final.reason == "cancelled"
    assert (await first_token(client, picture(9)))[1].completion_tokens == 1


def load(spec):
    return loading.load(spec, lambda _fraction: True)


async def test_a_projector_other_than_the_one_installed_is_refused(spec):
    with pytest.raises(EngineError) as caught:
        load(replace(spec, projector=replace(spec.projector, digest="0" * 64)))
    assert caught.value.kind is ErrorKind.TAMPERED
    assert "eye.gguf" in caught.value.what


@pytest.mark.parametrize("change", ["missing", "cut", "a model", "embed"])
async def test_what_is_no_projector_is_refused_by_name(spec, tmp_path, change):
    file = tmp_path / "eye.gguf"
    data = {"cut": small_projector()[:-40], "a model": small_llama()}.get(change, small_projector())
    if change != "missing":
        file.write_bytes(data)
    given = replace(spec, projector=ProjectorSpec(file, digest_of(file) if file.exists() else "0" * 64))
    with pytest.raises(EngineError) as caught:
        load(replace(given, mode="embed") if change == "embed" else given)
    kinds = {"missing": ErrorKind.MODEL_NOT_FOUND, "cut": ErrorKind.TAMPERED}
    assert caught.value.kind is kinds.get(change, ErrorKind.NOT_SUPPORTED)


async def test_a_projector_counts_towards_the_memory_that_must_be_free(spec, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda: 200 << 20)
    load(replace(spec, projector=None)).close()
    with pytest.raises(DoesNotFitError):
        load(spec)


async def test_a_build_without_libmtmd_refuses_the_projector_by_name(spec, monkeypatch):
    monkeypatch.setattr(llama_images, "available", lambda: False)
    with pytest.raises(EngineError, match="cannot read images"):
        load(spec)


async def test_without_a_projector_images_are_refused_with_a_clear_501(spec):
    loaded = load(replace(spec, projector=None))
    try:
        with pytest.raises(EngineError) as caught:
            loaded.prompts.prepare(Prepare(rid=1, tenant="acme", messages=LOOK, images=(picture(1),)))
        assert (caught.value.kind, caught.value.kind.value.status) == (ErrorKind.NOT_SUPPORTED, 501)
        assert caught.value.what == "this model reads no images"
    finally:
        loaded.close()


async def test_an_answer_about_an_image_goes_on_after_the_engine_was_killed_under_it(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.01)
    path = tmp_path / "e.sock"
    supervisor = EngineSupervisor(spec, path, command=command_for(spec), log=tmp_path / "log")
    await supervisor.start()
    pool = EnginePool(lambda _model: path, load_wait_s=30.0, max_waiting=4)
    line = await pool.engine(ServedModel(spec.model_id, spec.digest, 512))
    prompt = {"messages": LOOK, "images": (picture(7),)}
    prepared = await line.prepare(tenant="acme", **prompt)
    params = Params(temperature=0.0, ignore_eos=True)
    running = line.submit(
        job=new_id(), tenant="acme", tokens=prepared.tokens, params=params, max_tokens=200, prompt=prompt
    )
    first = line.hello.instance
    await until(lambda: running.received >= 4)
    os.kill(supervisor.life.pid, signal.SIGKILL)
    made, _, final = await collect(running)
    assert line.hello.instance != first, "it was not over yet"
    assert (len(made), final.reason, final.usage.completion_tokens) == (200, "length", 200)
    await pool.close()
    await supervisor.stop()
