"""Three real models of one site on two cores: a chat model, a base model with a window, and one for vectors."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

from appliance.embed_model import embed_model
from appliance.gemma_model import gemma_model
from appliance.serving import MODEL, ask, install_site, served
from appliance.test_serve import until

__all__ = ["embed_model", "gemma_model"]

pytestmark = pytest.mark.integration
GEMMA, MINILM = "gemma-3-270m", "all-minilm-l6-v2"
IDLE_S = 15


@pytest.fixture(scope="module")
def paths(tmp_path_factory, chat_model, gemma_model, embed_model):
    others = [(GEMMA, "generate", 2048, gemma_model), (MINILM, "embed", 512, embed_model)]
    return install_site(tmp_path_factory.mktemp("site"), chat_model, others)


@pytest.fixture(scope="module")
def client(paths):
    with served(paths, PLUGSKY_IDLE_EXIT=str(IDLE_S)) as (_, base_url):
        key = ask(paths, "key", "create", "--tenant", "lab")["secret"]
        with OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=180) as client:
            yield client


def chats(client):
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
    )
    return reply.choices[0].message.content


def completes(client):
    reply = client.completions.create(model=GEMMA, prompt="The capital of France is", max_tokens=8, temperature=0)
    return reply.choices[0].text


def embeds(client):
    return client.embeddings.create(model=MINILM, input=["a ship", "a boat"]).data[1].embedding


ASKING = {MODEL: chats, GEMMA: completes, MINILM: embeds}


def engines(paths):
    return {model["id"]: model["pid"] for model in ask(paths, "model", "list")["models"]}


def test_all_three_answer_at_once_as_they_answer_alone(client):
    alone = {model: asks(client) for model, asks in ASKING.items()}
    with ThreadPoolExecutor(9) as pool:
        futures = [(model, pool.submit(asks, client)) for _ in range(3) for model, asks in ASKING.items()]
        together = [(model, future.result()) for model, future in futures]
    assert len(alone[MINILM]) == 384
    assert alone[GEMMA].strip()
    for model, answer in together:
        if model == MINILM:
            assert answer == pytest.approx(alone[MINILM], abs=1e-3)
        else:
            assert answer == alone[model]


def test_models_are_listed_with_what_they_can_do(client):
    told = {model.id: model for model in client.models.list().data}
    assert set(told) == set(ASKING)
    assert {name: model.context_length for name, model in told.items()} == {MODEL: 2048, GEMMA: 2048, MINILM: 512}


def test_an_engine_that_idles_ends_and_comes_back_once_for_all_who_ask(paths, client):
    embeds(client)
    before = engines(paths)[MINILM]
    until(lambda: not any(engines(paths).values()), "no engine running", seconds=IDLE_S + 30)
    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(embeds, client) for _ in range(8)]]
    assert all(answer == pytest.approx(answers[0], abs=1e-3) for answer in answers)
    after = engines(paths)
    assert after[MINILM] not in (0, before)
    assert not after[GEMMA], "nobody asked for it"


def test_a_killed_engine_comes_back_and_the_others_go_on(paths, client):
    for asks in ASKING.values():
        asks(client)
    before = engines(paths)
    assert all(before.values())
    os.kill(before[GEMMA], signal.SIGKILL)
    assert chats(client)
    assert embeds(client)
    assert completes(client).strip()
    after = engines(paths)
    assert after[GEMMA] not in (0, before[GEMMA])
    assert (after[MODEL], after[MINILM]) == (before[MODEL], before[MINILM])


def test_all_is_billed_and_proven(paths, client):
    chats(client)
    time.sleep(0.2)  # the group commit of the last request's record
    rows = ask(paths, "usage", "report", "--tenant", "lab")["rows"]
    assert {row["model"] for row in rows} == set(ASKING)
    verdict = ask(paths, "audit", "verify")
    assert verdict["ok"], verdict["problems"]
