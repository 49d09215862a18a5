"""The owner of a pooling context: one text's fault stays its own; then the real process, over its socket."""

import asyncio
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from appliance import small_bert
from appliance.embed_model import embed_model
from appliance.engine_host import answer, running_engine, spec_of
from plugsky.core import ids
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Message, Params, Submit
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import EngineError
from plugsky.engine.llama import native
from plugsky.engine.scheduling.batcher import Bounds
from plugsky.engine.stepping import embedding
from plugsky.engine.stepping.embedding import Embedder, normalised
from plugsky.engine.stepping.orders import Quit, SetThreads, Start, Stop

__all__ = ["embed_model"]
POISON, ZERO, NAN = 66, 67, 68


class ScriptedPooling:
    """A text's vector is made of its first two tokens. POISON is refused; ZERO and NAN have no direction."""

    def __init__(self):
        self.batches, self.threads, self.broken = [], 0, False

    def compute(self, texts):
        self.batches.append([len(text) for text in texts])
        if self.broken:
            raise native.ContextBrokenError("computing a batch of texts gave -3")
        if any(POISON in text for text in texts):
            raise native.BatchRefusedError
        named = {ZERO: (0.0, 0.0), NAN: (float("nan"), 1.0)}
        return [np.array(named.get(text[0], (text[0], text[-1])), dtype=np.float32) for text in texts]

    def set_threads(self, n):
        self.threads = n


def submitted(*tokens, **options):
    return Submit(rid=1, job="j", tenant="t", tokens=tokens, params=Params(), max_tokens=0, **options)


def ran(*orders, scores=False, backend=None, bounds=None):
    """The news by ticket after these orders, and the reports."""
    reports = []
    backend = backend or ScriptedPooling()
    embedder = Embedder(backend, bounds or Bounds(100, 8), reports.append, scores=scores)
    jobs = sum(isinstance(order, Start) for order in orders)
    for order in orders:
        embedder.order(order)

    def tell(report):
        reports.append(report)
        if sum(update.error is not None or update.finish is not None for update in all_of(reports)) >= jobs:
            embedder.order(Quit())

    embedder._tell = tell
    embedder.run()
    return {update.ticket: update for update in all_of(reports) if not update.accepted}, reports


def all_of(reports):
    return [update for report in reports for update in report.updates]


def test_an_embedding_is_little_endian_floats_of_length_one():
    news, reports = ran(Start(1, submitted(3, 4)))
    assert struct.unpack("<2f", news[1].finish.embedding) == pytest.approx((0.6, 0.8))
    assert news[1].finish.reason == "stop"
    assert (news[1].finish.usage.prompt_tokens, news[1].finish.usage.completion_tokens) == (2, 0)
    assert reports[-1].prompt_tokens == 2
    assert reports[-1].n == 1


def test_a_score_is_given_as_the_model_made_it():
    news, _ = ran(Start(1, submitted(3, 4)), scores=True)
    assert news[1].finish.score == 3.0
    assert news[1].finish.embedding == b""


def test_what_waits_together_is_computed_together():
    backend = ScriptedPooling()
    ran(*(Start(n, submitted(*range(1, n + 1))) for n in range(1, 6)), backend=backend)
    assert backend.batches == [[1, 2, 3, 4, 5]]


def test_only_the_guilty_text_fails():
    news, _ = ran(*(Start(n, submitted(POISON if n == 3 else n)) for n in range(1, 6)))
    assert news[3].error.kind is ErrorKind.INTERNAL
    assert all(news[n].finish.embedding for n in (1, 2, 4, 5))


@pytest.mark.parametrize(("token", "scores"), [(ZERO, False), (NAN, False), (NAN, True)])
def test_what_is_no_number_is_an_error_and_no_answer(token, scores):
    news, _ = ran(Start(1, submitted(token)), scores=scores)
    assert news[1].error.kind is ErrorKind.INTERNAL


def test_a_cancelled_or_late_text_is_not_computed(monkeypatch):
    backend = ScriptedPooling()
    now = [0]
    monkeypatch.setattr(embedding, "_now_us", lambda: now.__setitem__(0, now[0] + 1000) or now[0])
    news, _ = ran(Start(1, submitted(1)), Start(2, submitted(2, deadline_us=1)), Stop(1), Stop(1), backend=backend)
    assert [news[n].finish.reason for n in (1, 2)] == ["cancelled", "deadline"]
    assert not backend.batches


def test_a_full_queue_refuses_and_goes_on():
    news, _ = ran(*(Start(n, submitted(n)) for n in (1, 2, 3)), bounds=Bounds(100, 8, queued_texts=2))
    assert news[3].error.kind is ErrorKind.OVERLOADED
    assert news[1].finish is not None


def test_its_share_of_cores_changes_between_batches():
    backend = ScriptedPooling()
    ran(SetThreads(3), Start(1, submitted(1)), backend=backend)
    assert backend.threads == 3


def test_a_broken_context_ends_the_thread():
    backend = ScriptedPooling()
    backend.broken = True
    with pytest.raises(native.ContextBrokenError):
        ran(Start(1, submitted(1)), backend=backend)


@pytest_asyncio.fixture
async def connected():
    """Runs engines: ``await connected(file, mode)`` gives a client of one."""
    async with asyncio.timeout(120):
        with tempfile.TemporaryDirectory() as folder:
            engines, clients = [], []

            async def make(file, mode):
                path = Path(folder) / f"{len(engines)}.sock"
                engines.append(running_engine(spec_of(file, mode=mode), path))
                await engines[-1].__aenter__()
                client = EngineClient(path)
                clients.append(client)
                await client.connect(60)
                return client

            yield make
            for client in clients:
                await client.close()
            for engine in engines:
                await engine.__aexit__(None, None, None)


@pytest.mark.integration
async def test_a_real_engine_embeds_for_many_and_refuses_what_it_cannot(connected, embed_model):
    client = await connected(embed_model, "embed")
    assert client.hello.n_ctx == 512
    texts = ["The road is long.", "A wheel turns."] * 8
    prepared = [await client.prepare(tenant=f"t{n}", text=text) for n, text in enumerate(texts)]
    done = await asyncio.gather(
        *(answer(client, one.tokens, 0, params=Params(), tenant=f"t{n}") for n, one in enumerate(prepared))
    )
    vectors = [np.frombuffer(final.embedding, "<f4") for _, _, final in done]
    assert {len(vector) for vector in vectors} == {384}
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(16), abs=1e-5)
    assert all(vectors[n] @ vectors[n % 2] > 0.999 for n in range(16))
    assert (await client.stats()).prompt_tokens == sum(len(one.tokens) for one in prepared)
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="t", text="road " * 600)
    assert (refusal.value.kind, refusal.value.n_prompt, refusal.value.n_ctx) == (ErrorKind.CONTEXT_EXCEEDED, 602, 512)
    with pytest.raises(EngineError, match="takes no messages"):
        await client.prepare(tenant="t", messages=(Message("user", "hello"),))
    with pytest.raises(EngineError, match="max_tokens must be 0"):
        await answer(client, prepared[0].tokens, 4, params=Params())


@pytest.mark.integration
async def test_a_real_engine_scores_pairs(connected, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(small_bert.small_bert(small_bert.RANK))
    client = await connected(file, "rerank")
    prepared = await client.prepare(tenant="t", pair=("fruit", "pear apple"))
    assert prepared.tokens == (2, 7, 3, 6, 5, 3)
    _, _, final = await answer(client, prepared.tokens, 0, params=Params(), job=ids.new_id())
    assert final.score == pytest.approx(small_bert.score(prepared.tokens), abs=2e-3)
    with pytest.raises(EngineError, match="takes pairs of a query and a document"):
        await client.prepare(tenant="t", text="fruit")


@pytest.mark.integration
async def test_an_engine_of_the_wrong_mode_says_so_and_stays(connected, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(small_bert.small_bert(small_bert.MEAN))
    with pytest.raises(EngineError, match="this model makes no scores of pairs"):
        await connected(file, "rerank")


def test_only_a_vector_with_a_direction_has_a_length_of_one():
    assert normalised(np.array([3, 4], dtype=np.float32)).tolist() == pytest.approx([0.6, 0.8])
    assert normalised(np.array([1e-38, 0], dtype=np.float32)) is not None
    assert normalised(np.zeros(3, dtype=np.float32)) is None
    assert normalised(np.array([np.inf, 1], dtype=np.float32)) is None
