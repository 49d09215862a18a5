"""Likelihoods and explanations by a real model: the mechanism, and that what matters most in a prompt is found."""

import asyncio
import hashlib
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from aleph_alpha_client import (
    Client,
    CompletionRequest,
    EvaluationRequest,
    ExplanationRequest,
    Prompt,
    PromptGranularity,
    TokenizationRequest,
)

from appliance.api_site import LIMITS, ApiSite
from plugsky.engine.life.supervisor import EngineSpec, EngineSupervisor
from plugsky.server.deps import ServedModel

PATIENT = replace(LIMITS, load_wait_s=120.0, request_timeout_s=240.0)
CAPITAL = Prompt.from_text("The capital of France is")


@pytest.mark.integration
async def test_a_real_model_tells_how_likely_a_text_is_and_what_makes_it_so(tmp_path, chat_model):
    digest = hashlib.sha256(chat_model.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), PATIENT) as site:
            site.gateway.models["smol"] = ServedModel("smol", digest, 1024)
            spec = EngineSpec("smol", chat_model, digest, "generate", 1024, 2)
            supervisor = EngineSupervisor(spec, site.paths.engine_socket("smol"), log=tmp_path / "engine.log")
            await supervisor.start()
            client = Client(token=site.key, host=f"http://127.0.0.1:{site.port}/aleph-alpha", total_retries=0)

            async def ask(verb, request):
                return await asyncio.to_thread(getattr(client, verb), request, "smol")

            try:
                await likely_texts_are_likelier(ask)
                await what_matters_most_is_found(ask)
                await log_probabilities_of_echo_and_evaluation_agree(ask)
            finally:
                client.session.close()
                await supervisor.stop()
            assert site.ledger.report().open_reservations == 0


async def likely_texts_are_likelier(ask):
    right = (await ask("evaluate", EvaluationRequest(CAPITAL, " Paris"))).result
    wrong = (await ask("evaluate", EvaluationRequest(CAPITAL, " bicycle"))).result
    assert right["log_probability"] > wrong["log_probability"] + 3
    said = (await ask("complete", CompletionRequest(CAPITAL, right["token_count"]))).completions[0].completion
    assert right["correct_greedy"] == (said == " Paris")
    assert right["completion"] == said


async def what_matters_most_is_found(ask):
    request = ExplanationRequest(CAPITAL, " Paris", prompt_granularity=PromptGranularity.Word)
    answer = (await ask("explain", request)).with_text_from_prompt(request)
    scores = {score.text: score.score for score in answer.explanations[0].items[0].scores}
    assert list(scores) == ["The", "capital", "of", "France", "is"]
    assert min(scores["capital"], scores["France"]) > max(scores["The"], scores["of"])


async def log_probabilities_of_echo_and_evaluation_agree(ask):
    echo = (await ask("complete", CompletionRequest(Prompt.from_text("The capital of France is Paris"), 0, echo=True,
                                                    log_probs=0, tokens=True))).completions[0]  # fmt: skip
    tokens = (await ask("tokenize", TokenizationRequest(" Paris", tokens=True, token_ids=True))).tokens
    assert echo.completion_tokens[-len(tokens) :] == tokens
    summed = math.fsum(next(iter(each.values())) for each in echo.log_probs[-len(tokens) :])
    evaluated = (await ask("evaluate", EvaluationRequest(CAPITAL, " Paris"))).result["log_probability"]
    assert evaluated == pytest.approx(summed, abs=0.15)
